"""Warns if a contrastive method has too few pairs."""

from __future__ import annotations

from cim_dg.errors import warn

STEPS = 20
ENOUGH = 0.5


class FewPositives:
    """Warns once if, over the first steps, fewer than half of the anchors had a same-class image to compare with.

    With many classes and small batches that is common (about 6 % of the anchors on rxrx1 have one), and the method is
    then almost the same as ERM. Call `see` with the term `positives` of each step.
    """

    def __init__(self, algorithm: str) -> None:
        self.algorithm = algorithm
        self._seen: list[float] = []

    def see(self, positives: float | None) -> None:
        """Record the share of anchors with a positive in one step, in [0, 1]; None if the method has no such term."""
        if positives is None or len(self._seen) >= STEPS:
            return
        self._seen.append(positives)
        mean = sum(self._seen) / len(self._seen)
        if len(self._seen) == STEPS and mean < ENOUGH:
            warn(
                f"{self.algorithm}: only {mean:.0%} of the anchors had another image of their class to compare with "
                f"over the first {STEPS} steps, so its contrast does little; use larger or class-balanced batches, or "
                "cim_queue to compare with recent images too",
                stacklevel=3,
            )

    def state_dict(self) -> dict[str, list[float]]:
        """The shares so far, for a checkpoint."""
        return {"seen": list(self._seen)}

    def load_state_dict(self, state: dict[str, list[float]]) -> None:
        """Restore the result of `state_dict`."""
        self._seen = list(state["seen"])
