"""The table of the Backgrounds Challenge: its columns from the splits, the gap, and the published figures beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from cim_dg.results import build
from cim_dg.results.tables import Table

VARIANTS = ("original", "mixed_same", "mixed_rand", "only_bg_t")


def write_log(folder: Path, algorithm: str, seed: int, epochs: list[tuple[float, ...]], images: int = 4050) -> None:
    """A log folder of two or more epochs: validation accuracy and those of the variants, and the challenge's rate."""
    folder.mkdir(parents=True)
    for place, split in enumerate(("val", *VARIANTS)):
        lines = ["epoch,acc_y:00_dog,count_y:00_dog,acc_avg"]
        lines += [f"{epoch},0.5,{images},{row[place]}" for epoch, row in enumerate(epochs)]
        (folder / f"{split}_eval.csv").write_text("\n".join(lines) + "\n")
    best = max(range(len(epochs)), key=lambda epoch: epochs[epoch][0])
    (folder / "adversarial_eval.csv").write_text(f"epoch,vulnerable,foregrounds\n{best},{epochs[best][-1]},{images}\n")
    record = {"harness": "wilds", "dataset": "backgrounds", "algorithm": algorithm, "seed": seed, "finished": True}
    (folder / "run.json").write_text(json.dumps(record | {"selection": "average", "selected_epoch": best}))


def table_of(folder: Path, **options: Any) -> Table:
    (table,) = build.report([folder], **options).tables
    return table


def figures(table: Table, method: str) -> Mapping[str, float]:
    (row,) = (row for row in table.rows if row.method == method and not row.published)
    return {column: round(cell.mean, 6) for column, cell in row.cells.items()}


def test_the_paper_columns_come_from_the_selected_epoch(tmp_path: Path) -> None:
    for seed in range(2):
        erm: list[tuple[float, ...]] = [(0.5, 0.1, 0.1, 0.1, 0.1, 0.1), (0.9, 0.96, 0.9, 0.75 + 0.02 * seed, 0.3, 0.8)]
        write_log(tmp_path / f"ERM-{seed}", "ERM", seed, erm)
        write_log(tmp_path / f"CIM-{seed}", "CIM", seed, [(0.95, 0.97, 0.8, 0.81 + 0.02 * seed, 0.2, 0.7), erm[0]])
    table = table_of(tmp_path)
    assert (table.name, table.title) == ("backgrounds", "Backgrounds Challenge: accuracy (%)")
    assert list(table.columns) == ["OR", "MS", "MR", "BGp", "Only-BG-T", "Adversarial"]
    expected = {"OR": 96.0, "MS": 90.0, "MR": 76.0, "BGp": 14.0, "Only-BG-T": 30.0, "Adversarial": 80.0}
    assert figures(table, "ERM") == pytest.approx(expected)
    published = {row.method: row.cells["BGp"].printed for row in table.rows if row.published}
    assert published == {"Res50": "14.3", "VIB": "9.4", "CIM": "8.8", "CIM_VIB": "8.0"}
    # A gap can be below 0, and so can its interval, unlike a share's.
    (row,) = (row for row in table.rows if row.method == "CIM" and not row.published)
    gap, interval = row.cells["BGp"].mean, row.cells["BGp"].interval
    assert gap == pytest.approx(-2.0) and interval is not None and interval[0] < gap
    (difference,) = (comparison.difference.mean for comparison in table.comparisons if comparison.column == "BGp")
    assert difference == pytest.approx(-16.0)


def test_the_gap_is_a_record(tmp_path: Path) -> None:
    write_log(tmp_path / "run", "CIM", 0, [(0.5, 0.9, 0.8, 0.7, 0.1, 0.6)])
    records = build.report([tmp_path]).records
    assert records is not None
    gap = records.frame[records.frame["metric"] == "gap"]
    assert gap["split"].tolist() == ["mixed_same - mixed_rand"] and gap["value"].tolist() == pytest.approx([0.1])


def test_another_folder_in_the_format_is_not_taken_for_it(tmp_path: Path) -> None:
    write_log(tmp_path / "run", "CIM", 0, [(0.5, 0.9, 0.8, 0.7, 0.1, 0.6)], images=18)
    table = table_of(tmp_path)
    assert table.name == "backgrounds-format" and not any(row.published for row in table.rows)
    assert list(table.columns) == ["OR", "MS", "MR", "BGp", "Only-BG-T", "Adversarial"]


def test_a_run_without_the_challenge_has_no_such_column(tmp_path: Path) -> None:
    write_log(tmp_path / "run", "CIM", 0, [(0.5, 0.9, 0.8, 0.7, 0.1, 0.6)])
    (tmp_path / "run" / "adversarial_eval.csv").unlink()
    table = table_of(tmp_path, with_published=False)
    assert "Adversarial" not in table.columns and not any(row.published for row in table.rows)
