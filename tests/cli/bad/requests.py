"""Requests that make no sense."""

from __future__ import annotations

from tests.cli.bad.row import Row, nothing, options

REQUESTS = [
    Row(f"{flag} {value}", nothing, 2, said, options(flag, value))
    for flag, value, said in (
        ("--sequences", "0", "expected at least 1 sequence of at least 2 tokens, got 0 of 20"),
        ("--sequences", "-3", "expected at least 1 sequence"),
        ("--sequences", "1000000000000", "1000000000000 sequences of 20 tokens are more than"),
        ("--sequences", "many", "Invalid value for '--sequences': .*valid int"),
        ("--length", "0", "of at least 2 tokens, got 2 of 0"),
        ("--length", "1", "of at least 2 tokens, got 2 of 1"),
        ("--length", "-1", "of at least 2 tokens, got 2 of -1"),
        ("--length", "1000000000000", "2 sequences of 1000000000000 tokens are more than"),
        ("--steps", "77", "steps '77' match no checkpoint: run has 2 steps: 1, 2"),
        ("--steps", "-1", "steps '-1' cannot be read"),
        ("--steps", "2:1", "'2:1' is empty"),
        ("--steps", "9" * 5000, "cannot be read"),
        ("--steps", "first", "steps 'first' cannot be read: expected `all`, `log`, or steps"),
        ("--positions", "0", "expected at least one position, got 0"),
        ("--positions", "-1", "expected at least one position, got -1"),
        ("--positions", "few", "expected a number of key positions or all, got 'few'"),
        ("--batch-size", "0", "Invalid value for '--batch-size'"),
        ("--dtype", "int8", "unknown dtype 'int8': expected one of float64, float32, bfloat16, float16"),
        ("--device", "gpu", "device 'gpu' is not available: choose one of cpu"),
        ("--device", "cuda:99", "device 'cuda:99' is not available"),
        ("--device", "meta", "device 'meta' holds no numbers"),
        ("--probes", "sunk", "unknown probe sunk"),
        ("--bos", "often", "unknown BOS policy 'often'"),
        ("--impl", "quick", "unknown implementation 'quick'"),
    )
]
