"""Certified nonlinear regression problems with exponentials: NIST Statistical Reference Datasets, StRD, Nonlinear."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Model = Callable[..., np.ndarray]


@dataclass(frozen=True)
class Problem:
    """Data `x`, `y`; a model of x and its parameters; NIST's two starts, and the certified parameters and squares."""

    model: Model
    x: np.ndarray
    y: np.ndarray
    starts: tuple[tuple[float, ...], tuple[float, ...]]
    certified: tuple[float, ...]
    squares: float


def numbers(text: str) -> np.ndarray:
    return np.array([float(word) for word in text.split()])


def three_exponentials(x: np.ndarray, *b: float) -> np.ndarray:
    return b[0] * np.exp(-b[1] * x) + b[2] * np.exp(-b[3] * x) + b[4] * np.exp(-b[5] * x)


LANCZOS_X = np.arange(24) / 20
LANCZOS = three_exponentials(LANCZOS_X, 0.0951, 1, 0.8607, 3, 1.5576, 5)
LANCZOS_STARTS = ((1.2, 0.3, 5.6, 5.5, 6.5, 7.6), (0.5, 0.7, 3.6, 4.2, 4, 6.3))


def significant(values: np.ndarray, digits: int) -> np.ndarray:
    return np.array([float(f"{value:.{digits - 1}e}") for value in values])


PROBLEMS = {
    "Misra1a": Problem(
        lambda x, a, b: a * (1 - np.exp(-b * x)),
        numbers("77.6 114.9 141.1 190.8 239.9 289.0 332.8 378.4 434.8 477.3 536.8 593.1 689.1 760.0"),
        numbers("10.07 14.73 17.94 23.93 29.61 35.18 40.02 44.82 50.76 55.05 61.01 66.40 75.47 81.78"),
        ((500, 0.0001), (250, 0.0005)),
        (2.3894212918e02, 5.5015643181e-04),
        1.2455138894e-01,
    ),
    "BoxBOD": Problem(
        lambda x, a, b: a * (1 - np.exp(-b * x)),
        numbers("1 2 3 5 7 10"),
        numbers("109 149 149 191 213 224"),
        ((1, 1), (100, 0.75)),
        (2.1380940889e02, 5.4723748542e-01),
        1.1680088766e03,
    ),
    "Chwirut2": Problem(
        lambda x, a, b, c: np.exp(-a * x) / (b + c * x),
        numbers(
            ".5 1 1.75 3.75 5.75 .875 2.25 3.25 5.25 .75 1.75 2.75 4.75 .625 1.25 2.25 4.25 .5 3 .75 3 1.5 6 3 6 1.5 3"
            " .5 2 4 .75 2 5 .75 2.25 3.75 5.75 3 .75 2.5 4 .75 2.5 4 .75 2.5 4 .5 6 3 .5 2.75 .5 1.75"
        ),
        numbers(
            "92.9 57.1 31.05 11.5875 8.025 63.6 21.4 14.25 8.475 63.8 26.8 16.4625 7.125 67.3 41 21.15 8.175 81.5 13.12"
            " 59.9 14.62 32.9 5.44 12.56 5.44 32 13.95 75.8 20 10.42 59.5 21.67 8.55 62 20.2 7.76 3.75 11.81 54.7 23.7"
            " 11.55 61.3 17.7 8.74 59.2 16.3 8.62 81 4.87 14.62 81.7 17.17 81.3 28.9"
        ),
        ((0.1, 0.01, 0.02), (0.15, 0.008, 0.010)),
        (1.6657666537e-01, 5.1653291286e-03, 1.2150007096e-02),
        5.1304802941e02,
    ),
    "Lanczos2": Problem(
        three_exponentials,
        LANCZOS_X,
        significant(LANCZOS, 6),
        LANCZOS_STARTS,
        (9.6251029939e-02, 1.0057332849, 8.6424689056e-01, 3.0078283915, 1.5529016879, 5.0028798100),
        2.2299428125e-11,
    ),
    "Lanczos3": Problem(
        three_exponentials,
        LANCZOS_X,
        LANCZOS.round(4),
        LANCZOS_STARTS,
        (8.6816414977e-02, 9.5498101505e-01, 8.4400777463e-01, 2.9515951832, 1.5825685901, 4.9863565084),
        1.6117193594e-08,
    ),
    "MGH10": Problem(
        lambda x, a, b, c: a * np.exp(b / (x + c)),
        np.arange(50.0, 126.0, 5.0),
        numbers("34780 28610 23650 19630 16370 13720 11540 9744 8261 7030 6005 5147 4427 3820 3307 2872"),
        ((2, 400_000, 25_000), (0.02, 4000, 250)),
        (5.6096364710e-03, 6.1813463463e03, 3.4522363462e02),
        8.7945855171e01,
    ),
    "MGH17": Problem(
        lambda x, a, b, c, d, e: a + b * np.exp(-x * d) + c * np.exp(-x * e),
        np.arange(0.0, 321.0, 10.0),
        numbers(
            ".844 .908 .932 .936 .925 .908 .881 .850 .818 .784 .751 .718 .685 .658 .628 .603 .580 .558 .538 .522 .506"
            " .490 .478 .467 .457 .448 .438 .431 .424 .420 .414 .411 .406"
        ),
        ((50, 150, -100, 1, 2), (0.5, 1.5, -1, 0.01, 0.02)),
        (3.7541005211e-01, 1.9358469127, -1.4646871366, 1.2867534640e-02, 2.2122699662e-02),
        5.4648946975e-05,
    ),
    "Eckerle4": Problem(
        lambda x, a, b, c: a / b * np.exp(-0.5 * ((x - c) / b) ** 2),
        np.concatenate([np.arange(400, 436, 5), np.arange(436.5, 464, 1.5), np.arange(465, 501, 5)]),
        numbers(
            "0.0001575 0.0001699 0.0002350 0.0003102 0.0004917 0.0008710 0.0017418 0.0046400 0.0065895 0.0097302"
            " 0.0149002 0.0237310 0.0401683 0.0712559 0.1264458 0.2073413 0.2902366 0.3445623 0.3698049 0.3668534"
            " 0.3106727 0.2078154 0.1164354 0.0616764 0.0337200 0.0194023 0.0117831 0.0074357 0.0022732 0.0008800"
            " 0.0004579 0.0002345 0.0001586 0.0001143 0.0000710"
        ),
        ((1, 10, 500), (1.5, 5, 450)),
        (1.5543827178, 4.0888321754, 4.5154121844e02),
        1.4635887487e-03,
    ),
    "Rat42": Problem(
        lambda x, a, b, c: a / (1 + np.exp(b - c * x)),
        numbers("9 14 21 28 42 57 63 70 79"),
        numbers("8.930 10.800 18.590 22.330 39.350 56.110 61.730 64.620 67.080"),
        ((100, 1, 0.1), (75, 2.5, 0.07)),
        (7.2462237576e01, 2.6180768402, 6.7359200066e-02),
        8.0565229338,
    ),
    "Rat43": Problem(
        lambda x, a, b, c, d: a / (1 + np.exp(b - c * x)) ** (1 / d),
        np.arange(1.0, 16.0),
        numbers("16.08 33.83 65.80 97.20 191.55 326.20 386.87 520.53 590.03 651.92 724.93 699.56 689.96 637.56 717.41"),
        ((100, 10, 1, 1), (700, 5, 0.75, 1.3)),
        (6.9964151270e02, 5.2771253025, 7.5962938329e-01, 1.2792483859),
        8.7864049080e03,
    ),
}
