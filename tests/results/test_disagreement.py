"""The images on which two methods disagree: by hand, with images matched by number, and on the page."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from made_sweeps import job_args, record, write_job
from made_wilds_logs import write_wilds_log

from cim_dg.results import build, disagreement, outputs, page
from cim_dg.results.outputs import Outputs


def _predicting(classes: list[int], y: list[int], images: list[int], step: int = 0) -> Outputs:
    return Outputs(np.eye(3, dtype=np.float32)[classes], np.array(y), np.array(images), step)


def test_a_pair_by_hand_with_images_in_another_order() -> None:
    pair = disagreement.Pair()
    y, images = [0, 1, 2, 0, 1], [10, 11, 12, 13, 14]
    first = _predicting([0, 1, 0, 1, 2], y, images)
    # The same images the other way round, without the last and with one more.
    second = _predicting([2, 2, 2, 1, 1], [0, 0, 2, 1, 0], [99, 13, 12, 11, 10])
    pair.add(first, second)
    # Image 10: only the first is right; 11: both; 12: only the second; 13: both wrong, of other classes.
    assert pair.shares[0].tolist() == [0.25, 0.25, 0.25, 0.25, 0.75]
    assert pair.images == {(10, 0, 0, 1): 1, (12, 2, 0, 2): 1, (13, 0, 1, 2): 1}
    pair.add(first, _predicting([1], [0], [10]))
    assert pair.images.most_common(1) == [((10, 0, 0, 1), 2)]


def test_images_that_are_not_in_both_give_nothing() -> None:
    pair = disagreement.Pair()
    pair.add(_predicting([0], [0], [1]), _predicting([0], [0], [2]))
    assert pair.shares == []


def test_images_that_each_run_has_numbered_differently_give_nothing() -> None:
    pair = disagreement.Pair()
    pair.add(_predicting([0, 1], [0, 1], [3, 4]), _predicting([1, 0], [0, 2], [3, 4]))
    assert pair.shares == []


def _write(root: Path) -> None:
    y, images = [0, 1, 2], [4, 5, 6]
    predictions = {"ERM": [0, 0, 0], "VIB": [0, 1, 0], "CIM": [0, 1, 2]}
    for method, classes in predictions.items():
        for trial in range(2):
            folder = root / f"{method}-{trial}"
            write_job(folder, job_args("NuisanceDigits", method, [2], trial), [record(0, [0.5] * 6)])
            outputs.keep(folder, _predicting(classes, y, images))


def test_every_two_methods_of_a_sweep_are_on_the_page(tmp_path: Path) -> None:
    _write(tmp_path)
    report = build.report([tmp_path])
    assert report.records is not None
    grid = disagreement.grid(report.tables[0], disagreement.pairs(report.tables[0], report.records))
    assert grid is not None
    assert [[cell[0] for cell in row[:9]] for row in grid.rows] == [
        ["ERM", "VIB", "domainbed", "new", "33.3", "0.0", "33.3", "33.3", "33.3"],
        ["ERM", "CIM", "domainbed", "new", "33.3", "0.0", "66.7", "0.0", "66.7"],
        ["VIB", "CIM", "domainbed", "new", "66.7", "0.0", "33.3", "0.0", "33.3"],
    ]
    assert grid.rows[1][9] == ["5 (class 1: 0, 1; 2 trials)", "6 (class 2: 0, 2; 2 trials)"]
    assert "images on which two methods disagree" in page.render(report)


def test_runs_without_logits_and_a_single_method_have_none(tmp_path: Path) -> None:
    _write(tmp_path)
    for path in tmp_path.glob("*/*.npz"):
        if not path.parent.name.startswith("CIM"):
            path.unlink()
    report = build.report([tmp_path])
    assert report.records is not None
    assert disagreement.pairs(report.tables[0], report.records) == {}
    assert "disagree" not in page.render(report)


def test_runs_of_wilds_are_compared_on_the_test_split(tmp_path: Path) -> None:
    for method, classes in (("ERM", [0, 0]), ("CIM", [0, 1])):
        folder = write_wilds_log(tmp_path / method, method)
        found = _predicting(classes, [0, 1], [7, 8], step=1)
        found.write(folder / "waterbirds_split:test_seed:0_epoch:best_logits.npz")
    report = build.report([tmp_path])
    assert report.records is not None
    ((key, pair),) = disagreement.pairs(report.tables[0], report.records).items()
    assert key == (("ERM", "wilds"), ("CIM", "wilds"), "test")
    assert pair.shares[0] == pytest.approx([0.5, 0, 0.5, 0, 0.5])
