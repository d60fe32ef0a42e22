"""SubpopBench's own commands on a clone of it, with digits in the format of Waterbirds."""

from __future__ import annotations

import csv
import json
import pickle
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fork_clones import python_without_gpu

from cim_dg.results import build
from cim_dg.wilds.digits import write_digits

pytestmark = [pytest.mark.harness, pytest.mark.slow]

METHODS = ("ERM", "GroupDRO", "CIM")
HPARAMS = json.dumps({"resnet18": True, "pretrained": False, "batch_size": 4})
PER_GROUP = {"0": 4, "1": 1, "2": 2}  # images of training, validation and test, of each group

# What scikit-learn and transformers have dropped, without which no algorithm of SubpopBench runs on today's.
PLAIN = """
import runpy, sys
import numpy, sklearn.metrics, torch
import subpopbench.models.networks  # after which transformers is the module that stays
sys.modules["transformers"].AdamW = torch.optim.AdamW
modern = sklearn.metrics.log_loss
sklearn.metrics.log_loss = lambda y, p, eps, labels: modern(y, numpy.clip(p, eps, 1 - eps), labels=labels)
runpy.run_module("subpopbench.train", run_name="__main__", alter_sys=True)
"""

SAME_WEIGHTS = """
import sys, torch
one, other = (torch.load(path, weights_only=False)["model_dict"] for path in sys.argv[1:])
print(one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one))
"""

RELOAD = """
import json, sys, torch
from subpopbench.dataset.datasets import Waterbirds
from subpopbench.dataset.fast_dataloader import FastDataLoader
from subpopbench.learning.algorithms import get_algorithm_class
from subpopbench.utils.eval_helper import eval_metrics
loader = FastDataLoader(Waterbirds(sys.argv[1], "te", {}), 8, 0)
accuracies = []
for path in sys.argv[2:]:
    saved = torch.load(path, weights_only=False)
    method = get_algorithm_class(saved["args"]["algorithm"])
    shape, sizes = saved["model_input_shape"], (saved["num_labels"], saved["num_attributes"], 16)
    model = method("images", shape, *sizes, saved["model_hparams"], grp_sizes=[4] * 4)
    model.load_state_dict(saved["model_dict"])
    accuracies.append({g: m["accuracy"] for g, m in eval_metrics(model, loader, "cpu")["per_group"].items()})
try:
    get_algorithm_class("CIM")("text", (3, 8), 2, 2, 16, saved["model_hparams"])
    refusal = ""
except Exception as error:
    refusal = str(error)
print(json.dumps([accuracies, refusal]))
"""


@dataclass(frozen=True)
class Place:
    """A folder in which SubpopBench's commands run, with the data and what they write."""

    root: Path
    folder: Path

    def python(self, *command: str, **environment: str) -> str:
        """What this Python prints, which must succeed."""
        protobuf = {"PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "python"}
        done = python_without_gpu(self.folder, *command, on_path=str(self.root), **protobuf, **environment)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    def job(self, method: str, sweep: str = "digits") -> Path:
        """The folder of a method's job."""
        return self.folder / "output" / f"{sweep}_attrYes" / f"Waterbirds_{method}_hparams0_seed0"

    def records(self, method: str, sweep: str = "digits") -> list[dict[str, Any]]:
        """The lines of a job's results.json."""
        return [json.loads(line) for line in (self.job(method, sweep) / "results.json").read_text().splitlines()]


@pytest.fixture(scope="module")
def place(subpopbench_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A sweep of `METHODS` by SubpopBench's own commands."""
    folder = tmp_path_factory.mktemp("subpopbench")
    place = Place(subpopbench_root, folder)
    digits = write_digits(folder / "data")
    keep_few(digits / "metadata.csv")
    (folder / "data" / "waterbirds").mkdir()
    (folder / "data" / "waterbirds" / "waterbird_complete95_forest2water2").symlink_to(digits)
    place.python("-m", "subpopbench.scripts.download", "waterbirds", "--data_path", "data")
    sweep = "launch --output_folder_name digits --dataset Waterbirds --n_hparams 1 --steps 2 --command_launcher local"
    options = [*sweep.split(), "--skip_confirmation", "--hparams", HPARAMS, "--algorithms", *METHODS]
    place.python("-m", "subpopbench.sweep", *options)
    return place


def keep_few(metadata: Path) -> None:
    """Leave only the first images of each split and group in a dataset's table."""
    with metadata.open(newline="") as file:
        rows = list(csv.DictReader(file))
    kept, counts = [], dict.fromkeys({(row["split"], row["y"], row["place"]) for row in rows}, 0)
    for row in rows:
        group = row["split"], row["y"], row["place"]
        counts[group] += 1
        if counts[group] <= PER_GROUP[row["split"]]:
            kept.append(row)
    with metadata.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(kept)


@pytest.mark.timeout(1200)
def test_the_sweep_trains_and_the_clone_stays_as_it_is(place: Place) -> None:
    for method in METHODS:
        assert (place.job(method) / "done").read_text() == "done"
        assert [record["step"] for record in place.records(method)] == [0, 1]
    assert "mask_mean" in place.records("CIM")[0]
    status = ["git", "-C", str(place.root), "status", "--porcelain"]
    assert subprocess.run(status, capture_output=True, text=True, check=True).stdout == ""


@pytest.mark.timeout(600)
def test_erm_gives_what_it_gives_without_us(place: Place) -> None:
    options = ["--algorithm", "ERM", "--dataset", "Waterbirds", "--output_folder_name", "plain", "--steps", "2"]
    place.python("-c", PLAIN, *options, "--hparams", HPARAMS, CIM_DG_AUTOLOAD="0")
    ours, plain = (
        [
            {name: value for name, value in record.items() if name not in ("args", "step_time")}
            for record in place.records("ERM", sweep)
        ]
        for sweep in ("digits", "plain")
    )
    assert ours == plain
    paths = [str(place.job("ERM", sweep) / "model.pkl") for sweep in ("digits", "plain")]
    assert place.python("-c", SAME_WEIGHTS, *paths).strip() == "True"


@pytest.mark.timeout(600)
def test_checkpoints_reload_and_text_is_refused(place: Place) -> None:
    ours = [method for method in METHODS if method != "ERM"]
    printed = place.python("-c", RELOAD, "data", *(str(place.job(method) / "model.pkl") for method in ours))
    accuracies, refusal = json.loads(printed.splitlines()[-1])
    for method, again in zip(ours, accuracies, strict=True):
        final = pickle.loads((place.job(method) / "final_results.pkl").read_bytes())["te"]["per_group"]
        assert again == {group: metrics["accuracy"] for group, metrics in final.items()}
    assert refusal == "CIM takes images; this dataset is text of shape (3, 8)"


@pytest.mark.timeout(600)
def test_its_tables_and_ours_list_the_same(place: Place) -> None:
    output = place.folder / "output" / "digits_attrYes"
    place.python("-m", "subpopbench.scripts.collect_results", "--input_dir", str(output))
    printed = (output / "results.txt").read_text()
    rules = {
        "oracle": "test set worst accuracy (oracle)",
        "worst-group": "validation set worst accuracy (with attributes)",
        "worst-class": "validation set worst accuracy (without attributes)",
    }
    tables = build.report([output], rules=list(rules)).tables
    assert {table.selection for table in tables} == rules.keys()
    for table in tables:
        theirs = printed.split(f"Dataset: Waterbirds, model selection method: {rules[table.selection]}\n")[1]
        assert {row.method for row in table.rows} == set(METHODS)
        for row in table.rows:
            line = re.search(rf"^{row.method} .*$", theirs, re.MULTILINE)
            assert line is not None
            average, worst = re.findall(r"([\d.]+) \+/-", line[0])[:2]
            assert row.source == "subpopbench"
            assert (average, worst) == tuple(f"{row.cells[name].mean:.1f}" for name in ("average", "worst group"))
