"""Compare what the stand-in gives, or a fresh run of the real DomainBed, with standin/golden/protocol.json.

What is equal by design is compared exactly. Rounding is left to the processor, within these bounds.
"""

from __future__ import annotations

from typing import Any

import pytest

FLOAT64_LOSS = 1e-9
"""Relative. After training in float64 on SSE4.1 and on AVX2, losses differ by less than 2e-15. The wrong protocols that
`test_standin_figures.py` plants change them by 4e-3 or more."""

FLOAT32_LOSS = 1e-5
"""Relative, before any training. Logits come from four convolutions that sum up to 1152 products. The rounding errors
of a sum grow with the root of its length: 4 * sqrt(1152) * 2^-24 = 8e-6."""

FLOAT32_DRAWS = 4e-6
"""Absolute, for sums of initial weights. A processor scales random numbers with one rounding or with two. 147456
weights below 0.03 that are off by 2^-23, independently, add up to sqrt(147456) * 0.03 * 2^-23 = 1.4e-6."""

LEAST_MARGIN = 1e-6
"""The two largest logits of every image that a golden run evaluates differ by more than this. Rounding in float64
cannot move an image over the decision boundary, so accuracies are equal."""


def check_run(records: list[dict[str, Any]], expected: dict[str, Any]) -> None:
    """The records of a run in float64 are those of the golden run `expected`."""
    assert expected["smallest_margin"] > LEAST_MARGIN
    assert [sorted(record) for record in records] == [sorted(record) for record in expected["records"]]
    for record, golden in zip(records, expected["records"], strict=True):
        assert record["loss"] == pytest.approx(golden["loss"], rel=FLOAT64_LOSS)
        assert record | {"loss": None} == golden | {"loss": None}


def check_first_loss(records: list[dict[str, Any]], expected: dict[str, Any]) -> None:
    """The first record of a run in float32 has the first loss of the golden run `expected`."""
    assert records[0]["loss"] == pytest.approx(expected["first_loss"], rel=FLOAT32_LOSS)


def check_hparams(hparams: dict[str, Any], expected: dict[str, Any]) -> None:
    """The last digit of a power is the C library's; all else is equal."""
    assert _leaves(hparams) == pytest.approx(_leaves(expected), rel=1e-12, abs=0)


def check_network(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """The initial weights, and features that are computed from them in float64 and are of order 1."""
    for part in ("weights", "features"):
        assert _leaves(found[part]) == pytest.approx(_leaves(expected[part]), rel=0, abs=FLOAT32_DRAWS)


def check_batches(batches: Any, expected: Any) -> None:
    """Fingerprints of images, which are made of integers and summed in float64."""
    assert _leaves(batches) == pytest.approx(_leaves(expected), rel=1e-12)


def _leaves(nested: Any, place: str = "") -> dict[str, Any]:
    """Every value in nested lists and dicts, by its place there."""
    if not isinstance(nested, (dict, list)):
        return {place: nested}
    parts = nested.items() if isinstance(nested, dict) else enumerate(nested)
    return {key: value for name, part in parts for key, value in _leaves(part, f"{place}/{name}").items()}
