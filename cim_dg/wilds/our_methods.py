"""The methods that are added to WILDS' examples harness."""

from __future__ import annotations

HARNESS_OWN = ("ERM", "GroupDRO")
"""The harness' own versions of these are used, so that our methods are compared with what it publishes."""


def our_methods() -> list[str]:
    """The registered methods that the harness does not have itself."""
    from cim_dg.algorithms import methods

    return [name for name in methods() if name not in HARNESS_OWN]
