"""The order of events: planted steps are found, and the confidence says what the data can tell."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

import ontogeny
from ontogeny import plots
from ontogeny.errors import OntogenyError, UsageError
from ontogeny.fitting import events
from ontogeny.fitting.half_way import half_way

STEPS = np.array([0, 1, 4, 16, 64, 128, 256, 512, 1000, 2000, 4000, 8000, 16000])


def rise(at: float, sharpness: float = 3.0, steps: np.ndarray = STEPS) -> np.ndarray:
    """A sigmoid in log(1 + step), half way up at `at`, from exactly 0 to exactly 1 (n,)."""
    raw = 1 / (1 + np.exp(-sharpness * (np.log1p(steps) - np.log1p(at))))
    return (raw - raw[0]) / (raw[-1] - raw[0])


def planted(
    sinks: list[list[np.ndarray]],
    drains: list[list[np.ndarray]],
    ratios: list[np.ndarray],
    steps: np.ndarray = STEPS,
    sequences: int = 40,
    noise: float = 0.0,
    seed: int = 0,
) -> xr.Dataset:
    """A dataset with these series, [layer][head] or [layer]; sequences scatter about them by `noise`."""
    draw = np.random.default_rng(seed)
    score = np.moveaxis(np.array(sinks), -1, 0)
    norm = np.moveaxis(np.array(drains), -1, 0)
    ratio = np.concatenate([np.ones((1, steps.size)), np.array(ratios)]).T
    layers, heads = score.shape[1:]
    each = score[:, None] * (1 + noise * draw.normal(size=(steps.size, sequences, layers, heads)))
    top = 0.5 * ratio[:, None] * (1 + noise * draw.normal(size=(steps.size, sequences, layers + 1)))
    at = ("checkpoint", "layer", "head", "position")
    fill = np.full(score.shape, 0.02)
    dims = ("checkpoint", "sequence", "depth")
    return xr.Dataset(
        {
            "sink_score": (at, np.stack([each.mean(axis=1), fill], axis=-1)),
            "value_norm": (at, np.stack([norm, fill + 1], axis=-1)),
            "top_sink_score": (("checkpoint", "sequence", "layer", "head"), each),
            "top_sink_position": (("checkpoint", "sequence", "layer", "head"), np.zeros(each.shape, np.int32)),
            "top_activation": ((*dims, "rank"), top[..., None] * np.array([1, 0.5, 0.2])),
            "median_activation": (dims, np.full(top.shape, 0.5)),
        },
        coords={
            "checkpoint": [f"step{step}" for step in steps],
            "step": ("checkpoint", steps),
            "verdict": ("checkpoint", np.array(["ok"] * steps.size, dtype=object)),
            "layer": np.arange(layers),
            "depth": np.arange(layers + 1),
            "head": np.arange(heads),
            "position": [0, 1],
            "rank": [1, 2, 3],
        },
    ).set_xindex("step")


def one_layer(sink: float, drain: float, massive: float, **options: object) -> xr.Dataset:
    return planted([[0.05 + 0.8 * rise(sink)]], [[1 - 0.9 * rise(drain)]], [5 + 90 * rise(massive)], **options)


def value(found: xr.Dataset, name: str, event: str, layer: int = 0) -> float:
    return float(found[name].sel(layer=layer, event=event))


def test_a_crossing_is_exact_where_the_curve_is_straight_in_log_step() -> None:
    steps = np.array([0.0, 9.0, 99.0, 999.0])
    values = np.array([[0.0, 0.25, 0.75, 1.0], [4.0, 4.0, 2.0, 0.0], [0.0, 0.8, 0.4, 1.0], [1.0, 5.0, 2.0, 1.0]])
    found = half_way(steps, values)
    np.testing.assert_allclose(found.step[:3], [10**1.5 - 1, 99.0, 10 ** (2 + 1 / 6) - 1])
    np.testing.assert_array_equal(found.before, [9, 9, 99, np.nan])
    np.testing.assert_array_equal(found.after, [99, 99, 999, np.nan])
    assert np.isnan(found.step[3])


def test_planted_steps_are_found() -> None:
    found = events(one_layer(sink=90, drain=700, massive=5000))
    for event, at, between in (("sink", 90, (64, 128)), ("drain", 700, (512, 1000)), ("massive", 5000, (4000, 8000))):
        assert value(found, "step", event) == pytest.approx(at, rel=0.12), event
        assert (value(found, "before", event), value(found, "after", event)) == between
        assert (value(found, "step_low", event), value(found, "step_high", event)) == between
    assert found["verdict"].values.tolist() == [["found"] * 3]
    assert found["order"].item() == "sink < drain < massive"
    assert found["order_confidence"].item() == 1
    kinds = ["checkpoints and sequences", "checkpoints", "checkpoints and sequences"]
    assert found["uncertainty"].values.tolist() == [kinds]
    assert np.isnan(value(found, "sampling_low", "drain")) and value(found, "sampling_low", "massive") > 4000


@pytest.mark.parametrize(
    ("at", "order"),
    [((3000, 90, 700), "drain < massive < sink"), ((700, 3000, 90), "massive < sink < drain")],
)
def test_other_orders_are_found(at: tuple[float, float, float], order: str) -> None:
    found = events(one_layer(*at, noise=0.1))
    assert found["order"].item() == order
    assert found["order_confidence"].item() > 0.99
    first, second, third = order.split(" < ")
    shares = found["precedes"].isel(layer=0)
    assert float(shares.sel(event=first, other=third)) == 1 and float(shares.sel(event=third, other=first)) == 0
    assert float(shares.sel(event=second, other=third)) > 0.99


def test_simultaneous_events_are_not_told_apart() -> None:
    found = events(one_layer(sink=90, drain=95, massive=5000))
    assert found["order"].item() == "sink < drain < massive"
    assert 0.45 < found["order_confidence"].item() < 0.55
    assert 0.45 < float(found["precedes"].isel(layer=0).sel(event="sink", other="drain")) < 0.55
    three = events(one_layer(sink=88, drain=90, massive=92, noise=0.02))["order_confidence"].item()
    assert 0.11 < three < 0.23


def test_an_exact_tie_is_no_order() -> None:
    steps = np.array([0, 10, 100])
    way = np.array([0.0, 0.25, 1.0])
    found = events(planted([[0.5 * way]], [[1 - way]], [1 + 8 * way], steps=steps))
    assert found["order"].item() == "sink = drain = massive"
    assert np.isnan(found["order_confidence"].item())


def test_changes_that_are_not_notable_are_absent() -> None:
    small = planted([[0.2 + 0.09 * rise(90)]], [[1 - 0.45 * rise(90)]], [5 + 4.9 * rise(90)])
    found = events(small)
    assert found["verdict"].values.tolist() == [["absent"] * 3]
    assert (found["order"].item(), found["order_confidence"].item()) == ("none", 1)
    assert np.isnan(found["step"]).all() and np.isnan(found["precedes"]).all()
    enough = planted([[0.22 + 0.11 * rise(90)]], [[1 - 0.55 * rise(90)]], [5 + 5.1 * rise(90)])
    assert events(enough)["verdict"].values.tolist() == [["found"] * 3]
    high_already = planted([[0.6 + 0.09 * rise(90)]], [[0.45 - 0.1 * rise(90)]], [50 + 40 * rise(90)])
    assert events(high_already)["verdict"].values.tolist() == [["absent"] * 3]
    passing = planted([[0.05 + 0.9 * (rise(60) - rise(3000))]], [[1 - 0.9 * rise(90)]], [5 + 50 * rise(3000)])
    assert events(passing)["order"].item() == "drain < massive"


def test_an_event_at_the_limit_has_no_closed_interval() -> None:
    ratio = [5 + 5.5 * rise(90)]
    found = events(planted([[np.full(13, 0.1)]], [[np.ones(13)]], ratio, noise=0.3, seed=0))
    massive = found.sel(event="massive", layer=0)
    assert massive["verdict"].item() == "found" and massive["before"].item() == 64
    assert np.isnan(massive[["step_low", "step_high", "sampling_low", "sampling_high"]].to_array()).all()
    assert found["order"].item() == "massive"
    assert 0.5 < found["order_confidence"].item() < 0.95


def test_the_first_lasting_sink_is_looked_at_and_the_strongest_on_request() -> None:
    early, late, passing = 0.05 + 0.6 * rise(90), 0.05 + 0.9 * rise(3000), 0.05 + 0.8 * (rise(20) - rise(512))
    norms = [1 - 0.9 * rise(700), 1 - 0.9 * rise(90), np.ones(13)]
    both = planted([[early, late, passing]], [norms], [5 + 90 * rise(8000)])
    first, strongest = events(both), events(both, head="strongest")
    assert (first["head"].item(), strongest["head"].item()) == (0, 1)
    assert first["order"].item() == "sink < drain < massive"
    assert strongest["order"].item() == "drain < sink < massive"


def test_neither_the_order_of_checkpoints_nor_flagged_ones_matter() -> None:
    dataset = one_layer(90, 700, 5000, noise=0.1)
    expected = events(dataset)
    xr.testing.assert_identical(events(dataset.isel(checkpoint=np.random.default_rng(1).permutation(13))), expected)
    wrong = dataset.isel(checkpoint=[12, 12]).drop_indexes("step")
    wrong = wrong.assign_coords(
        step=("checkpoint", [20, -1]), verdict=("checkpoint", np.array(["duplicate", "ok"], dtype=object))
    )
    more = events(xr.concat([dataset.drop_indexes("step"), wrong], "checkpoint"))
    assert (more.attrs["left_out_by_verdict"], more.attrs["left_out_without_step"]) == (1, 1)
    xr.testing.assert_equal(more, expected)


def test_what_cannot_be_told_has_a_verdict() -> None:
    dataset = one_layer(90, 700, 5000)
    for count in (0, 1):
        alone = events(dataset.isel(checkpoint=slice(count)))
        assert set(alone["verdict"].values.ravel()) <= {"too few checkpoints", "not measured"}
        assert (alone["order"].item(), np.isnan(alone["order_confidence"].item())) == ("unknown", True)
    no_attention = events(dataset.drop_vars(["sink_score", "value_norm", "top_sink_score", "top_sink_position"]))
    assert no_attention["verdict"].values.tolist() == [["not measured", "not measured", "found"]]
    assert (no_attention["head"].item(), no_attention["order"].item()) == (-1, "massive")
    spoiled = dataset.copy(deep=True)
    spoiled["median_activation"].values[0] = 0
    spoiled["value_norm"].values[3] = np.nan
    assert events(spoiled)["verdict"].values.tolist() == [["found", "not finite", "not finite"]]
    assert events(dataset.isel(sequence=[0]))["uncertainty"].values.tolist() == [["checkpoints"] * 3]


def test_a_sink_that_is_seldom_the_top_one_is_known_by_its_checkpoints() -> None:
    dataset = one_layer(90, 700, 5000, noise=0.1)
    few = dataset.copy(deep=True)
    few["top_sink_position"].values[3, :21] = 5  # step 16 decides nothing
    assert events(few)["uncertainty"].sel(event="sink").item() == "checkpoints and sequences"
    few["top_sink_position"].values[4, :21] = 5
    assert events(few)["uncertainty"].sel(event="sink").item() == "checkpoints"


def test_sequences_whose_top_sink_is_elsewhere_count_with_their_mean() -> None:
    whole = one_layer(90, 700, 5000, noise=0.1)
    some = whole.copy(deep=True)
    some["top_sink_position"].values[:, :10] = 5
    some["top_sink_score"].values[:, :10] = 0.99
    mean = whole.copy(deep=True)
    scores = mean["top_sink_score"].values
    scores[:, :10] = scores[:, :10].mean(axis=1, keepdims=True)
    for end in ("step", "sampling_low", "sampling_high"):
        assert value(events(some), end, "sink") == pytest.approx(value(events(mean), end, "sink"), rel=1e-9)


@pytest.mark.parametrize("event", ["sink", "massive"])
def test_sampling_intervals_cover(event: str) -> None:
    """95 % intervals, 200 trials: 178 or fewer has a probability under 1e-3, were the coverage 95 %."""
    truth = events(one_layer(90, 700, 5000))
    inside = 0
    for seed in range(200):
        found = events(one_layer(90, 700, 5000, sequences=50, noise=0.25, seed=seed), bootstrap=400)
        low, high = value(found, "sampling_low", event), value(found, "sampling_high", event)
        inside += low <= value(truth, "step", event) <= high
        assert value(found, "step_low", event) <= low and high <= value(found, "step_high", event)
    assert 178 <= inside <= 199


def test_wrong_use_is_refused() -> None:
    dataset = one_layer(90, 700, 5000)
    for options in ({"head": "best"}, {"level": 1.0}, {"bootstrap": 0}):
        with pytest.raises(UsageError, match="expected"):
            events(dataset, **options)
    with pytest.raises(UsageError, match="`checkpoint` dimension"):
        events(dataset.isel(checkpoint=0))
    with pytest.raises(UsageError, match="layers or depths"):
        events(xr.Dataset(coords={"step": ("checkpoint", [0, 1])}))


def test_every_variable_is_described() -> None:
    for name, variable in events(one_layer(90, 700, 5000)).data_vars.items():
        assert {"long_name", "units", "source"} <= set(variable.attrs), name


def test_the_figure_shows_steps_and_intervals() -> None:
    dataset = one_layer(90, 700, 5000)
    fig = plots.events(dataset)
    assert [trace.name for trace in fig.data] == ["sink", "drain", "massive"]
    drain = fig.data[1]
    at = drain.x[0]
    assert at == pytest.approx(np.log10(1 + value(events(dataset), "step", "drain")))
    assert at - drain.error_x.arrayminus[0] == pytest.approx(np.log10(513))
    assert at + drain.error_x.array[0] == pytest.approx(np.log10(1001))
    with pytest.raises(OntogenyError, match=r"no event to draw.*too few checkpoints"):
        plots.events(dataset.isel(checkpoint=[0]))


def test_the_order_of_the_embedded_series(tmp_path) -> None:
    scan = ontogeny.scan("pocket", sequences=32, steps="0,128,256,512,1000,2000,3000,4000,10000")
    found = events(scan)
    first_sink = found.sel(layer=1)
    assert first_sink["head"].item() == 0
    assert first_sink["order"].item() == "sink < drain < massive"
    assert first_sink["after"].values.tolist() == [256, 2000, 4000]
    assert first_sink["order_confidence"].item() > 0.95
    assert found["order"].sel(layer=2).item() == "drain < sink < massive"
    assert found["verdict"].sel(layer=0).values.tolist() == ["absent", "absent", "found"]
