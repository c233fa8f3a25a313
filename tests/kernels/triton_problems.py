"""Problems for the Triton kernels, and what they are held to: on a GPU where there is one, else in the interpreter."""

from __future__ import annotations

import math
from unittest.mock import patch

import torch

from ontogeny.kernels import attention_stats
from ontogeny.kernels.maps import map_statistics
from ontogeny.kernels.triton import launch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
PER_ROW = ("lse", "entropy", "row_max", "participation", "mass")
FIELDS = ("output", *PER_ROW, "column_mass", "visible_rows", "distance", "value_norm", "value_weighted_norm")


def problem(
    seed=0, length=37, queries=None, heads=1, kv_heads=1, dim=64, value_dim=None, dtype=torch.float32, **options
):
    """Arguments of `attention_stats` for two sequences; `padding` and `sinks` are made to measure."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator).to(DEVICE, dtype)

    q, k = draw(2, heads, queries or length, dim) * 2, draw(2, kv_heads, length, dim)
    v, sinks = draw(2, kv_heads, length, value_dim or dim), draw(heads)
    mask, padding = None, options.pop("padding", None)
    if padding:
        mask = torch.ones(2, length, dtype=torch.bool, device=DEVICE)
        places = {"left": slice(length // 3), "right": slice(length // 2, None), "holes": slice(1, None, 3)}
        mask[0, places[padding]] = False
    wanted = {"rows": torch.arange(0, q.shape[2], 7), "columns": torch.arange(0, length, 5)}
    return {
        "q": q,
        "k": k,
        "v": v,
        "scale": dim**-0.5,
        "causal": True,
        "mask": mask,
        **{name: indices.to(DEVICE) for name, indices in wanted.items()},
        **options,
        "sinks": sinks if options.get("sinks") else None,
    }


def run(arguments):
    """The kernels' statistics; whatever they leave unwritten is NaN."""
    allocate = launch._empty
    with patch.object(launch, "_empty", lambda *args, **options: allocate(*args, **options).fill_(math.nan)):
        return attention_stats(**arguments, impl="triton")


def plain_float32(arguments):
    """The statistics of a whole map as anyone would make it, in float32; the output in the inputs' own dtype."""
    q, k, v = (arguments[name] for name in "qkv")
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    scores = q.float() @ k.float().transpose(-1, -2) * arguments["scale"]
    if cap := arguments.get("softcap"):
        scores = cap * torch.tanh(scores / cap)
    distance = torch.arange(q.shape[2], device=DEVICE)[:, None] - torch.arange(k.shape[2], device=DEVICE)
    seen = (distance < (arguments.get("window") or math.inf)) & ((distance >= 0) | (not arguments["causal"]))
    keys = torch.tensor(float(k.shape[2]), device=DEVICE)
    if (mask := arguments["mask"]) is not None:
        seen = seen & mask[:, None, None, :] & mask[:, None, :, None]
        keys = mask.sum(1).float().view(-1, 1, 1, 1)
    seen = seen.expand_as(scores)
    some = seen.any(-1, keepdim=True)
    scores = scores.masked_fill(~seen, -torch.inf).masked_fill(~some, 0)
    sink = None
    mechanism = arguments.get("mechanism", "softmax")
    if mechanism == "sigmoid":
        p = (scores - keys.log()).sigmoid()
    elif mechanism == "relu":
        p = scores.relu() / keys
    elif arguments["sinks"] is not None:
        logits = arguments["sinks"].float().view(1, -1, 1, 1).expand(*scores.shape[:3], 1)
        p, sink = torch.cat([scores, logits], -1).softmax(-1).split([k.shape[2], 1], -1)
    else:
        p = scores.softmax(-1)
    output = (p * some).to(v.dtype) @ v
    return map_statistics(p * some, seen, v.float(), output, None if sink is None else sink * some)


def check(arguments, factor=2.0):
    """Equal to the reference, up to `factor` times the error of plain torch."""
    found, exact = run(arguments), attention_stats(**arguments, impl="reference")
    plain = plain_float32(arguments)
    for field in (*FIELDS, "rows", "columns"):
        truth, value = getattr(exact, field), getattr(found, field)
        if truth is None:
            assert value is None
            continue
        assert value.shape == truth.shape
        assert value.dtype == (arguments["q"].dtype if field == "output" else torch.float32)
        truth, size = truth.double(), 1 + truth.double().abs().max().item()
        other = getattr(plain, field)
        allowed = 0.0 if other is None else (other.double() - truth).abs().max().item()
        error = (value.double() - truth).abs().max().item()
        assert error <= factor * allowed + 2e-6 * size, f"{field}: {error} where plain torch has {allowed}"
    torch.testing.assert_close(found.visible_rows.double(), exact.visible_rows, rtol=0, atol=0)
    return found
