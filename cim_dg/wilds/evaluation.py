"""The figures that a run reports, and the selection of an epoch by them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from sklearn.metrics import f1_score
from torch import Tensor

from cim_dg.errors import UserError


@dataclass(frozen=True)
class GroupAccuracy:
    """One group: its name, its number of images, and its accuracy in [0, 1] (None if it has no image)."""

    name: str
    count: int
    accuracy: float | None


@dataclass(frozen=True)
class Report:
    """Accuracies of one split, all in [0, 1].

    Attributes:
        average: over all images, regardless of groups.
        worst_class: the lowest accuracy of a class that is present.
        macro_f1: the mean F1 score of the classes that are present, by which iWildCam is ranked.
        worst_group: the lowest accuracy of a group that is present and not ignored; None without groups.
        adjusted_average: the groups' accuracies weighted by their shares of the training split (renormalised if a
            group has no image), as Waterbirds' average is published; None if not requested.
        groups: all groups, in the grouper's order.
    """

    average: float
    worst_class: float
    macro_f1: float
    worst_group: float | None
    adjusted_average: float | None
    groups: tuple[GroupAccuracy, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain Python, for JSON."""
        return {**asdict(self), "groups": [asdict(group) for group in self.groups]}

    def select(self, rule: str) -> float:
        """The figure by which `rule` (average, worst-class, worst-group, macro-f1) compares epochs; higher is better.

        Raises:
            UserError: the rule needs groups and the split has none.
        """
        value = {
            "average": self.average,
            "worst-class": self.worst_class,
            "worst-group": self.worst_group,
            "macro-f1": self.macro_f1,
        }[rule]
        if value is None:
            raise UserError("selection worst-group needs groups, and this dataset has none")
        return value


def make_report(
    y_pred: Tensor,
    y_true: Tensor,
    groups: Tensor | None = None,
    names: Sequence[str] = (),
    ignored: Sequence[str] = (),
    shares: Sequence[float] | None = None,
) -> Report:
    """The report of a split.

    Args:
        y_pred: (N,) predicted classes.
        y_true: (N,) true classes; N is at least 1.
        groups: (N,) indices into `names`, or None for a dataset without groups.
        names: the groups' names.
        ignored: names of groups that cannot be the worst.
        shares: the groups' shares of the training split, for the adjusted average.
    """
    correct = (y_pred == y_true).to(torch.float64)
    present = y_true.unique()
    worst_class = min(float(correct[y_true == y].mean()) for y in present)
    macro_f1 = float(f1_score(y_true, y_pred, labels=present, average="macro", zero_division=0))
    if groups is None:
        return Report(float(correct.mean()), worst_class, macro_f1, None, None, ())
    counts = torch.bincount(groups, minlength=len(names)).tolist()
    hits = torch.bincount(groups, weights=correct, minlength=len(names)).tolist()
    rows = tuple(
        GroupAccuracy(name, count, hit / count if count else None)
        for name, count, hit in zip(names, counts, hits, strict=True)
    )
    known = [row.accuracy for row in rows if row.accuracy is not None and row.name not in ignored]
    adjusted = None
    if shares is not None:
        weighed = [(share, row.accuracy) for share, row in zip(shares, rows, strict=True) if row.accuracy is not None]
        total = sum(share for share, _ in weighed)
        adjusted = sum(share * accuracy for share, accuracy in weighed) / total if total else None
    worst_group = min(known) if known else None
    return Report(float(correct.mean()), worst_class, macro_f1, worst_group, adjusted, rows)


def format_report(split: str, report: Report) -> str:
    """The report as text for a log. The lines have the same order for all datasets."""
    average = f"average {report.average:.3f}"
    if report.adjusted_average is not None:
        average += f" (adjusted to the training groups {report.adjusted_average:.3f})"
    worst = "" if report.worst_group is None else f", worst group {report.worst_group:.3f}"
    lines = [f"{split}: {average}{worst}, worst class {report.worst_class:.3f}"]
    lines += [
        f"  {group.name} [n = {group.count}]: {group.accuracy:.3f}"
        for group in report.groups
        if group.accuracy is not None
    ]
    return "\n".join(lines)
