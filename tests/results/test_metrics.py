"""Metrics of kept logits: against scikit-learn and naive loops, and in the tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from made_sweeps import job_args, record, write_job
from made_wilds_logs import write_wilds_log
from scipy.special import softmax
from sklearn import metrics as reference

from cim_dg import cli
from cim_dg.results import build, metrics, outputs, page
from cim_dg.results.outputs import Outputs


def _outputs(seed: int, classes: int = 3, n: int = 200, step: int = 0, shift: float = 1.0) -> Outputs:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, n)
    logits = rng.normal(size=(n, classes)) + shift * np.eye(classes)[y]
    return Outputs(logits.astype(np.float32), y, np.arange(n), step)


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_they_are_scikit_learns(classes: int) -> None:
    found = _outputs(classes, classes)
    p, predicted = softmax(found.logits.astype(np.float64), axis=1), found.logits.argmax(axis=1)
    assert metrics.negative_log_likelihood(found) == pytest.approx(-np.log(p[np.arange(200), found.y]).mean())
    assert metrics.macro_f1(found) == pytest.approx(reference.f1_score(found.y, predicted, average="macro"))
    assert metrics.balanced_accuracy(found) == pytest.approx(reference.balanced_accuracy_score(found.y, predicted))
    hits = [np.mean(predicted[found.y == label] == label) for label in range(classes)]
    assert metrics.worst_class_accuracy(found) == pytest.approx(min(hits))
    auroc = reference.roc_auc_score(found.y, p[:, 1] if classes == 2 else p, multi_class="ovr")
    assert metrics.area_under_roc(found) == pytest.approx(auroc)


@pytest.mark.parametrize("shift", [0.0, 2.0, 8.0])
def test_the_calibration_error_against_a_loop_over_its_bins(shift: float) -> None:
    found = _outputs(0, 4, 500, shift=shift)
    p = softmax(found.logits.astype(np.float64), axis=1)
    confidence, right = p.max(axis=1), p.argmax(axis=1) == found.y
    expected = 0.0
    for low in np.arange(15) / 15:
        inside = (confidence > low) & (confidence <= low + 1 / 15)
        if inside.any():
            expected += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert metrics.calibration_error(found) == pytest.approx(expected)


def test_classes_without_images_do_not_count() -> None:
    found = _outputs(1, 4)
    some = Outputs(found.logits[found.y < 2], found.y[found.y < 2], found.image[found.y < 2], 0)
    predicted = some.logits.argmax(axis=1)
    assert metrics.worst_class_accuracy(some) == min(np.mean(predicted[some.y == label] == label) for label in (0, 1))
    assert 0.5 < metrics.area_under_roc(some) <= 1
    one = Outputs(found.logits[found.y == 0], found.y[found.y == 0], found.image[found.y == 0], 0)
    assert np.isnan(metrics.area_under_roc(one))


def test_a_file_has_float16_and_comes_back(tmp_path: Path) -> None:
    found = _outputs(2)
    found.logits[0] = [0, 0, 1e6]  # more than float16 can hold
    found.logits[1] = [7, 7.00001, 7]  # closer than float16 can tell apart at 7
    found.write(tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz") as data:
        assert data["logits"].dtype == np.float16
    read = outputs.read(tmp_path / "a.npz")
    assert read is not None and read.logits[0].tolist() == [-65504, -65504, 0]
    np.testing.assert_allclose(read.probabilities, found.probabilities, atol=1e-3)
    assert (read.logits.argmax(axis=1) == found.logits.argmax(axis=1)).all()
    assert (read.y == found.y).all() and (read.image == found.image).all()


@pytest.mark.parametrize("damage", [b"", b"PK", None])
def test_a_damaged_file_is_none(tmp_path: Path, damage: bytes | None) -> None:
    path = tmp_path / "a.npz"
    _outputs(3).write(path)
    path.write_bytes(path.read_bytes()[:-200] if damage is None else damage)
    assert outputs.read(path) is None
    wrong = _outputs(3)
    wrong.y[0] = 9
    wrong.write(path)
    assert outputs.read(path) is None


def test_the_best_and_the_last_checkpoint_are_kept(tmp_path: Path) -> None:
    for step, validation in enumerate((0.5, 0.8, 0.8, 0.6)):
        found = _outputs(step, step=step)
        outputs.keep(tmp_path, Outputs(found.logits, found.y, found.image, step, validation))
    best, last = outputs.read(tmp_path / outputs.BEST), outputs.read(tmp_path / outputs.LAST)
    assert best is not None and last is not None
    assert (best.step, last.step) == (1, 3), "of equals the first, as DomainBed selects"


def _write(root: Path) -> None:
    for number, method in enumerate(("ERM", "CIM")):
        for env in range(3):
            for trial in range(3):
                accuracies = [0.6 if index == 2 * env else 0.5 + trial / 10 for index in range(6)]
                folder = root / f"{method}-{env}-{trial}"
                write_job(folder, job_args("NuisanceDigits", method, [env], trial), [record(7, accuracies)])
                outputs.keep(folder, _outputs(100 * number + 10 * env + trial, step=7, shift=1.0 + number))


def test_a_table_has_their_means_over_the_test_domains(tmp_path: Path) -> None:
    _write(tmp_path)
    _, table = build.report([tmp_path], metrics=["ece", "nll"]).tables
    assert list(table.columns) == ["ECE", "100 NLL"]
    expected = [
        np.mean([metrics.negative_log_likelihood(_read(tmp_path / f"CIM-{env}-{trial}")) for env in range(3)])
        for trial in range(3)
    ]
    (cim,) = [row for row in table.rows if row.method == "CIM"]
    assert cim.cells["100 NLL"].mean == pytest.approx(100 * np.mean(expected))
    assert cim.cells["100 NLL"].trials == 3
    assert {comparison.verdict for comparison in table.comparisons if comparison.column == "100 NLL"} == {
        "significantly lower"
    }
    assert "metrics of the test images" in page.render(build.report([tmp_path], metrics=["ece"]))


def _read(folder: Path) -> Outputs:
    found = outputs.read(folder / outputs.BEST)
    assert found is not None
    return found


def test_trials_without_logits_of_the_selected_step_are_left_out_and_counted(tmp_path: Path) -> None:
    _write(tmp_path)
    _outputs(0, step=6).write(tmp_path / "CIM-0-0" / outputs.BEST)
    (tmp_path / "CIM-0-0" / outputs.LAST).unlink()
    _, table = build.report([tmp_path], metrics=["auroc"]).tables
    (cim,) = [row for row in table.rows if row.method == "CIM"]
    assert cim.cells["AUROC"].trials == 2
    assert any("Left out: 1 trials" in note for note in table.notes)


def test_runs_of_wilds_have_them_at_their_selected_epoch(tmp_path: Path) -> None:
    for seed in range(2):
        folder = write_wilds_log(tmp_path / f"{seed}", "ERM", seed=seed)
        _outputs(seed, 2, step=1).write(folder / f"waterbirds_split:test_seed:{seed}_epoch:best_logits.npz")
    _, table = build.report([tmp_path], metrics=["balanced"]).tables
    expected = 50 * sum(metrics.balanced_accuracy(_outputs(seed, 2)) for seed in range(2))
    assert table.rows[0].cells["balanced accuracy"].mean == pytest.approx(expected, abs=0.5)  # float16
    _, table = build.report([tmp_path], rules=["average"], metrics=["balanced"]).tables
    assert table.rows[0].cells["balanced accuracy"].trials == 2


def test_collect_says_where_there_are_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_wilds_log(tmp_path / "a", "ERM")
    assert cli.main(["collect", str(tmp_path), "--metrics"]) == 0
    assert "no selected model has kept its logits" in capsys.readouterr().err
    _outputs(0, 2, step=1).write(tmp_path / "a" / "waterbirds_split:test_seed:0_epoch:best_logits.npz")
    assert cli.main(["collect", str(tmp_path), "--metrics"]) == 0
    shown = capsys.readouterr().out
    assert all(title in shown for title, _ in metrics.METRICS.values())


def test_the_commands_metrics_are_these() -> None:
    from cim_dg.results import command

    assert tuple(metrics.METRICS) == command.METRICS
