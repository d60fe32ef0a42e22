"""The images on which two methods disagree, from kept logits: how many, and which ones most often."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from cim_dg.results.grids import Grid
from cim_dg.results.outputs import Outputs
from cim_dg.results.records import Records
from cim_dg.results.selected_outputs import selected
from cim_dg.results.tables import Key, Table

_NAMED = 6  # images in a row of the table
Pairs = Mapping[tuple[Key, Key, str], "Pair"]  # two rows and a test domain


@dataclass(frozen=True)
class Named:
    """An image that the table names: its harness, test domain, number and class."""

    source: str
    domain: str
    number: int
    label: int


@dataclass
class Pair:
    """Two methods on one test domain, over trials.

    `shares` has, for each trial, the shares of images that both, only the first, only the second, and neither
    classify correctly, and of those for which they predict other classes. `images` counts the trials in which an image
    (number, class, first's and second's prediction) is one of the last.
    """

    shares: list[np.ndarray] = field(default_factory=list)
    images: Counter[tuple[int, int, int, int]] = field(default_factory=Counter)

    def add(self, first: Outputs, second: Outputs) -> None:
        """Add a trial; images are matched by their numbers.

        Where the classes of a number differ, as in DomainBed's MNISTs, which each run shuffles, they are other images.
        """
        _, here, there = np.intersect1d(first.image, second.image, return_indices=True)
        if not len(here) or (first.y[here] != second.y[there]).any():
            return
        y, a, b = first.y[here], first.logits.argmax(axis=1)[here], second.logits.argmax(axis=1)[there]
        right, also = a == y, b == y
        differ = a != b
        of_images = (right & also, right & ~also, ~right & also, ~right & ~also, differ)
        self.shares.append(np.array([each.mean() for each in of_images]))
        columns = (first.image[here], y, a, b)
        self.images.update(zip(*(column[differ].tolist() for column in columns), strict=True))

    def most_often(self) -> list[tuple[tuple[int, int, int, int], int]]:
        """The images (as in `images`) on which they differ in most trials, with the number of these."""
        return sorted(self.images.items(), key=lambda item: (-item[1], item[0]))[:_NAMED]


def pairs(table: Table, records: Records) -> Pairs:
    """Every two rows of one source on each test domain (of WILDS: the test split), where both have kept logits."""
    if not table.trials:
        return {}
    models: dict[tuple[str, int], dict[Key, Outputs]] = {}
    for key, dataset, trial, by_domain in selected(table, records):
        for domain, found in by_domain.items():
            if found is not None:
                models.setdefault((f"{dataset} {domain}".strip(), trial), {})[key] = found
    rows = [(row.method, row.source) for row in table.rows if not row.published]
    compared: dict[tuple[Key, Key, str], Pair] = {}
    for (domain, _), of_cell in sorted(models.items()):
        for first, second in itertools.combinations([key for key in rows if key in of_cell], 2):
            if first[1] == second[1]:
                compared.setdefault((first, second, domain), Pair()).add(of_cell[first], of_cell[second])
    return {key: pair for key, pair in compared.items() if pair.shares}


def named(found: Pairs) -> list[Named]:
    """The images that the table names, those in most rows first."""
    counts = Counter(
        Named(source, domain, number, label)
        for ((_, source), _, domain), pair in found.items()
        for (number, label, _, _), _ in pair.most_often()
    )
    return sorted(counts, key=lambda image: (-counts[image], image.source, image.domain, image.number))


def grid(table: Table, found: Pairs) -> Grid | None:
    """The table of disagreements for the page; None where fewer than two methods have kept logits."""
    if not found:
        return None
    header = [
        "First",
        "Second",
        "From",
        "Test domain",
        "Both right",
        "Only first",
        "Only second",
        "Both wrong",
        "Differ",
    ]
    rows = [_row(key, pair) for key, pair in found.items()]
    return Grid(
        f"{table.title} [{table.selection}]: images on which two methods disagree",
        [*header, "Most often"],
        rows,
        [False] * len(rows),
        [
            "Shares of the test images in %, means over trials; Differ: the two predict other classes.",
            "Most often: the number of the image in the data set (DomainBed: in the environment), its class, the two "
            "predictions, and in how many trials.",
        ],
        [False, False, False, False, True, True, True, True, True, False],
    )


def _row(key: tuple[Key, Key, str], pair: Pair) -> list[list[str]]:
    (first, source), (second, _), domain = key
    shares = [[f"{100 * share:.1f}"] for share in np.mean(pair.shares, axis=0)]
    images = [f"{image} (class {y}: {a}, {b}; {count} trials)" for (image, y, a, b), count in pair.most_often()]
    return [[first], [second], [source], [domain], *shares, images or ["none"]]
