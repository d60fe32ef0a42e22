"""Records of SWAD and SubpopBench: those in `samples` were written by the clones that docs/harnesses.md names."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from made_sweeps import job_args, record, write_job

from cim_dg.results import build, read_subpopbench, read_swad
from cim_dg.results.grids import grids
from cim_dg.results.read import read
from cim_dg.results.tables import Table
from cim_dg.tracking.writers import name_of

SAMPLES = Path(__file__).with_name("samples")


def _table(report: build.Report, selection: str) -> Table:
    (table,) = (table for table in report.tables if table.selection == selection)
    return table


def _figures(table: Table) -> dict[tuple[str, str], list[str]]:
    return {
        (row.method, row.source): [f"{row.cells[name].mean:.3f}" for name in table.columns if name in row.cells]
        for row in table.rows
        if not row.published
    }


def _summary(log: Path) -> dict[str, list[str]]:
    """The table at the end of a log of `train_all.py`: selection -> its figures."""
    rows = [line.strip("|").split("|") for line in log.read_text().splitlines() if line.startswith("|")]
    return {row[0].strip(): [cell.strip(" %") for cell in row[1:]] for row in rows}


def test_swad_is_selected_and_averaged_as_its_own_summary_has_it() -> None:
    report = build.report([SAMPLES / "swad"], rules=["iid", "oracle"])
    for log in (SAMPLES / "swad").rglob("log.txt"):
        method, summary = log.parent.name.split("_")[-1], _summary(log)
        iid, oracle = (_figures(_table(report, rule)) for rule in ("iid", "oracle"))
        assert iid[method, "swad"] == summary["iid"]
        assert iid[method, "swad (averaged)"] == summary["SWAD"]
        assert oracle[method, "swad"] == summary["oracle"]
        assert (method, "swad (averaged)") not in oracle


def test_averaged_models_are_compared_among_themselves() -> None:
    table = _table(build.report([SAMPLES / "swad"]), "iid")
    assert {(row.source, row.method) for row in table.comparisons} == {
        ("swad", "CIM"),
        ("swad (averaged)", "CIM"),
    }


def test_swad_runs_say_what_made_them() -> None:
    runs = read([SAMPLES / "swad"]).runs
    assert len(runs) == 12  # two methods, three test environments, plain and averaged
    assert all(run.finished and run.hparams["swad"] == "LossValley" for run in runs)
    assert all(run.provenance["command"].startswith("python train_all.py") for run in runs)
    assert len({(run.folder, name_of(run)) for run in runs}) == 12


def _copy(name: str, tmp_path: Path) -> Path:
    (found,) = (SAMPLES / name).rglob("*CIM*/results.json*")
    return Path(shutil.copytree(found.parent, tmp_path / found.parent.name))


def test_a_log_that_is_cut_off_is_unfinished_and_gives_no_average(tmp_path: Path) -> None:
    folder = _copy("swad", tmp_path)
    log = folder / "log.txt"
    log.write_text(log.read_text().split("Test envs = [2]")[0])
    records = read([tmp_path])
    unfinished = [run for run in records.runs if not run.finished]
    assert [run.test_envs for run in unfinished] == [(2,)]
    assert [run.test_envs for run in records.runs if read_swad.is_averaged(run.harness)] == [(0,), (1,)]
    assert any(sentence.startswith("Not finished: 1 of 5 runs") for sentence in records.report())


def test_an_average_that_cannot_be_read_is_counted(tmp_path: Path) -> None:
    folder = _copy("swad", tmp_path)
    log = folder / "log.txt"
    log.write_text("\n".join(line for line in log.read_text().splitlines() if "test_in     test_out" not in line))
    records = read([tmp_path])
    assert not any(read_swad.is_averaged(run.harness) for run in records.runs)
    assert len(records.skipped[read_swad.BAD_AVERAGE]) == 3


def test_without_a_log_the_checkpoints_count(tmp_path: Path) -> None:
    folder = _copy("swad", tmp_path)
    (folder / "log.txt").unlink()
    runs = read([tmp_path]).runs
    assert [(run.harness, run.finished) for run in runs] == [("swad", False)] * 3


def test_forks_are_told_apart_and_protocols_have_tables_of_their_own(tmp_path: Path) -> None:
    shutil.copytree(SAMPLES / "swad", tmp_path / "swad")
    miro = _copy("swad", tmp_path / "miro")
    lines = [json.loads(line) for line in (miro / "results.jsonl").read_text().splitlines()]
    for line in lines:  # what MIRO's config.yaml has, and SWAD's has not
        line["hparams"] |= {"feat_layers": "stem_block", "swad": False}
    (miro / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (miro / "log.txt").unlink()
    accuracies = [0.5] * 6
    for env in range(3):
        plain = job_args("NuisanceDigits", "CIM", [env], 0)
        write_job(tmp_path / "domainbed" / str(env), plain, [record(0, accuracies)])
        diwa = plain | {"init_step": False, "path_for_init": None}
        write_job(tmp_path / "diwa" / str(env), diwa, [record(0, accuracies)])
    by_title = {table.title: {row.source for row in table.rows} for table in build.report([tmp_path]).tables}
    assert by_title == {
        "NuisanceDigits: test accuracy (%)": {"domainbed", "diwa"},
        "NuisanceDigits, SWAD's protocol: test accuracy (%)": {"swad", "swad (averaged)", "miro"},
    }


def test_published_figures_stand_with_their_protocol(tmp_path: Path) -> None:
    folder = _copy("swad", tmp_path)
    for name in ("results.jsonl", "log.txt"):
        (folder / name).write_text((folder / name).read_text().replace("NuisanceDigits", "VLCS"))
    for env in range(3):
        write_job(tmp_path / str(env), job_args("VLCS", "CIM", [env], 0), [record(0, [0.5] * 8)])
    protocols = {
        table.title: {row.protocol for row in table.rows if row.published} for table in build.report([tmp_path]).tables
    }
    assert protocols == {
        "VLCS: test accuracy (%)": {"paper", "domainbed-iid"},
        "VLCS, SWAD's protocol: test accuracy (%)": {"swad-iid"},
    }
    (table,) = (table for table in build.report([tmp_path], rules=["oracle"]).tables if "SWAD" in table.title)
    assert not any(row.published for row in table.rows)


def _line(step: int, seed: int, hparams_seed: int, val: dict[str, float], test: float, **more: Any) -> dict[str, Any]:
    """A line of SubpopBench's results.json; `val` has the accuracies of the worst group and the worst class."""

    def metrics(group: float, label: float, average: float) -> dict[str, Any]:
        return {
            "overall": {"accuracy": average, "n_samples": 100},
            "min_group": {"accuracy": group},
            "per_class": {"0": {"recall": label}, "1": {"recall": 1.0}},
        }

    args = {
        "dataset": "Waterbirds",
        "algorithm": "ERM",
        "seed": seed,
        "hparams_seed": hparams_seed,
        "train_attr": "yes",
    }
    return {
        "step": step,
        "loss": 1.0,
        "va_avg_acc": 0.9,
        "args": args | more,
        "hparams": {"lr": 1e-3 * (1 + hparams_seed)},
        "va": metrics(val["group"], val["label"], 0.5),
        "te": metrics(test, test, test),
    }


def _write(folder: Path, *lines: dict[str, Any], done: bool = True) -> Path:
    folder.mkdir(parents=True)
    (folder / "results.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if done:
        (folder / "done").write_text("done")
    return folder


def _worst(root: Path, rule: str) -> dict[str, float]:
    table = _table(build.report([root], rules=[rule]), rule)
    return {row.method: round(row.cells["worst group"].mean, 6) for row in table.rows}


def test_subpopbench_selects_over_settings_and_checkpoints(tmp_path: Path) -> None:
    low, high = {"group": 0.2, "label": 0.9}, {"group": 0.6, "label": 0.3}
    _write(tmp_path / "a", _line(0, 0, 0, high, 0.11), _line(300, 0, 0, high, 0.12), _line(600, 0, 0, low, 0.13))
    _write(tmp_path / "b", _line(0, 0, 1, low, 0.21), _line(300, 0, 1, high, 0.22))
    # Its ties: the first checkpoint, the highest hparams seed.
    assert _worst(tmp_path, "worst-group") == {"ERM": 22.0}
    assert _worst(tmp_path, "worst-class") == {"ERM": 21.0}
    assert _worst(tmp_path, "oracle") == {"ERM": 22.0}
    assert [table.selection for table in build.report([tmp_path]).tables] == ["worst-class", "worst-group"]


@pytest.mark.parametrize(
    ("more", "labels"),
    [
        ({}, "no"),
        ({"algorithm": "GroupDRO"}, "yes (training)"),
        ({"algorithm": "GroupDRO", "train_attr": "no"}, "no"),
        ({"algorithm": "CIM"}, "no"),
    ],
)
def test_attributes_that_a_run_used_are_group_labels(tmp_path: Path, more: dict[str, str], labels: str) -> None:
    _write(tmp_path / "a", _line(0, 0, 0, {"group": 0.5, "label": 0.5}, 0.5, **more))
    (row,) = _table(build.report([tmp_path], rules=["worst-class"]), "worst-class").rows
    assert row.group_labels == labels


def test_runs_with_and_without_attributes_are_two_rows(tmp_path: Path) -> None:
    val = {"group": 0.5, "label": 0.5}
    for answer, test in (("yes", 0.25), ("no", 0.75)):
        _write(tmp_path / answer, _line(0, 0, 0, val, test, train_attr=answer))
    assert _worst(tmp_path, "worst-group") == {"ERM (train_attr yes)": 25.0, "ERM (train_attr no)": 75.0}


def test_bad_lines_are_counted_and_jobs_without_a_result_named(tmp_path: Path) -> None:
    good = _line(0, 0, 0, {"group": 0.5, "label": 0.5}, 0.5)
    folder = _write(tmp_path / "a", good, done=False)
    bad = [json.dumps(good)[:40], "[]", json.dumps({**good, "te": {}}), json.dumps({**good, "args": {}})]
    with (folder / "results.json").open("a") as file:
        file.write("\n".join(bad) + "\n")
    (tmp_path / "b").mkdir()
    for name in ("args.json", "out.txt", "err.txt"):
        (tmp_path / "b" / name).touch()
    records = read([tmp_path])
    assert len(records.runs) == 1
    assert not records.runs[0].finished
    assert len(records.skipped[read_subpopbench.MALFORMED]) == len(bad)
    assert records.skipped[read_subpopbench.NO_RESULTS] == [str(tmp_path / "b")]


def test_records_of_subpopbench_stand_beside_those_of_wilds_in_rows_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"dataset": "waterbirds", "algorithm": "ERM", "seed": 0, "harness": "wilds"}')
    for split in ("val", "test"):
        metrics = "epoch,acc_avg,adj_acc_avg,acc_wg,count_a,count_b\n0,0.5,0.75,0.25,40,40\n"
        (tmp_path / f"{split}_eval.csv").write_text(metrics)
    report = build.report([SAMPLES / "subpopbench", tmp_path], rules=["worst-group"])
    (table,) = report.tables
    assert table.dataset == "waterbirds-format"
    assert {(row.method, row.source) for row in table.rows} == {
        ("ERM", "subpopbench"),
        ("CIM", "subpopbench"),
        ("ERM", "wilds"),
    }
    # The average that both harnesses have.
    assert [row.cells["average"].mean for row in table.rows if row.source == "wilds"] == [50.0]
    assert not any(row.published for row in table.rows)
    assert any("waterbirds format (80 test images)" in note for grid in grids(table) for note in grid.notes)
    assert report.records is not None
    run = next(run for run in report.records.runs if run.harness == "subpopbench")
    assert run.provenance["command"].startswith("python -m subpopbench.train --algorithm")
