"""Every kind of unfairness, planted in sweeps that are fair otherwise, is found and named; fair ones are clean."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made_sweeps import job_args, record, uniform, write_job
from made_wilds_logs import write_wilds_log

from cim_dg import cli
from cim_dg.results import audit, build, primary
from cim_dg.results.primary import Primary

METHODS, TRIALS, ENVS, SETTINGS = ("ERM", "CIM"), 3, 3, 2
PROVENANCE = {"harness": "domainbed-standin", "git_commit": "a" * 40, "weights": None}
VERSIONS = {"cim-dg": "0.1.0", "torch": "2.14.1"}

Change = Callable[[dict[str, Any], dict[str, Any], dict[str, Any]], object]


def _sweep(
    root: Path, dataset: str = "NuisanceDigits", change: Change | None = None, value: float | None = None
) -> Path:
    """A complete sweep; `change` alters args, hparams and provenance of each job, or returns False to leave it out."""
    for method in METHODS:
        for trial in range(TRIALS):
            for env in range(4 if dataset in ("VLCS", "PACS") else ENVS):
                for seed in range(SETTINGS):
                    args = job_args(dataset, method, [env], trial, seed)
                    hparams = {"lr": 1e-3 * (1 + seed), "batch_size": 32, "resnet18": False, "resnet50_augmix": True}
                    provenance = {**PROVENANCE, "versions": dict(VERSIONS)}
                    if change is not None and change(args, hparams, provenance) is False:
                        continue
                    _write(root / f"{method}-{env}-{trial}-{seed}", args, hparams, provenance, value)
    return root


def _write(folder: Path, args: dict, hparams: dict, provenance: dict, value: float | None = None) -> None:
    envs = 4 if args["dataset"] in ("VLCS", "PACS") else ENVS
    key = args["algorithm"], args["test_envs"], args["trial_seed"], args["hparams_seed"]
    accuracies = [uniform(key, place) / 10 + 0.6 if value is None else value for place in range(2 * envs)]
    write_job(folder, args, [record(1, accuracies)])
    line = json.loads((folder / "results.jsonl").read_text())
    (folder / "results.jsonl").write_text(json.dumps({**line, "hparams": hparams}) + "\n")
    (folder / "provenance.json").write_text(json.dumps(provenance))


def _found(folder: Path, **kwargs: Any) -> dict[str, list[audit.Finding]]:
    found: dict[str, list[audit.Finding]] = {}
    for finding in audit.findings(build.report([folder], **kwargs)):
        found.setdefault(finding.kind, []).append(finding)
    return found


def test_a_fair_sweep_is_clean(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _sweep(tmp_path)
    assert cli.main(["audit", str(tmp_path), "--strict"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("Nothing unfair was found.\n\nNuisanceDigits: trials 0 to 2 of CIM, tested on new, chose")
    assert out.count("to mend") == 1


def _of_cim(update: Callable[[dict, dict, dict], object]) -> Change:
    return lambda args, hparams, provenance: update(args, hparams, provenance) if args["algorithm"] == "CIM" else None


@pytest.mark.parametrize(
    ("kind", "change", "words", "mend"),
    [
        (
            "settings",
            lambda a, h, p: not (a["algorithm"] == "CIM" and a["hparams_seed"]),
            "unequal numbers of settings (CIM: 1; ERM: 2)",
            "2 settings of CIM: python -m domainbed.scripts.sweep launch --datasets NuisanceDigits --algorithms CIM",
        ),
        (
            "trials",
            lambda a, h, p: not (a["algorithm"] == "CIM" and a["trial_seed"] == 2),
            "unequal trials (CIM: 0, 1; ERM: 0 to 2)",
            "--n_hparams 2 --n_trials 3",
        ),
        (
            "missing",
            lambda a, h, p: (a["algorithm"], a["test_envs"], a["trial_seed"], a["hparams_seed"]) != ("CIM", [1], 2, 1),
            "1 of 18 jobs of CIM are missing (first: test environments [1], trial 2, hparams seed 1)",
            "the missing jobs",
        ),
        (
            "backbone",
            _of_cim(lambda a, h, p: h.update(resnet18=True)),
            None,
            None,  # on VLCS, see below
        ),
        (
            "weights",
            lambda a, h, p: p.update(weights="mine" if a["algorithm"] == "CIM" else "random"),
            None,
            None,
        ),
        (
            "steps or epochs",
            _of_cim(lambda a, h, p: a.update(steps=900)),
            "runs differ in steps or epochs (CIM: 900 steps; ERM: the dataset's default)",
            "all methods with one steps or epochs",
        ),
        (
            "code",
            _of_cim(lambda a, h, p: p.update(git_commit="b" * 40)),
            f"runs differ in code (CIM: {'b' * 40}; ERM: {'a' * 40})",
            "all methods with one code",
        ),
        (
            "library versions",
            lambda a, h, p: p.update(versions={**VERSIONS, "torch": "2.13"}) if a["trial_seed"] else None,
            "runs differ in library versions (torch 2.13, torch 2.14.1)",
            "all methods with one library versions",
        ),
        (
            "harness",
            _of_cim(lambda a, h, p: p.update(harness="domainbed")),
            "runs of domainbed and domainbed-standin are shown together",
            "all methods in one",
        ),
        (
            "optimiser",
            lambda a, h, p: h.update(lars=a["algorithm"] == "CIM"),
            "runs differ in optimiser (CIM: LARS; ERM: Adam)",
            "all methods with one optimiser",
        ),
    ],
)
def test_what_is_planted_is_found(
    kind: str, change: Change, words: str | None, mend: str | None, tmp_path: Path
) -> None:
    dataset = "NuisanceDigits" if words else "VLCS"
    found = _found(_sweep(tmp_path, dataset, change))
    (finding,) = found[kind]
    assert (words or f"runs differ in {kind} (CIM: ") in finding.text
    assert (mend or f"all methods with one {kind}") in finding.mend
    assert set(found) - {kind} <= {"pretraining", "missing"}, "nothing else is planted"


def test_batch_learning_rate_and_weight_decay_count_where_they_are_not_searched(tmp_path: Path) -> None:
    names = {"lr": "learning rate", "batch_size": "batch size", "weight_decay": "weight decay"}

    def change(args: dict, hparams: dict, provenance: dict) -> object:
        hparams |= {"weight_decay": 0.0}
        if args["algorithm"] == "CIM":
            hparams |= {name: 0.5 for name in names}
        return not args["hparams_seed"]  # without a search

    found = _found(_sweep(tmp_path / "fixed", change=change))
    assert set(found) == set(names.values())
    assert found["learning rate"][0].text == "runs differ in learning rate (CIM: 0.5; ERM: 0.001)."
    _, _, command = found["learning rate"][0].mend.partition("python -m domainbed.scripts.sweep launch ")
    assert "--algorithms CIM ERM --single_test_envs" in command and "--output_dir NEW" in command
    assert shlex.split(command)[-2:] == ["--hparams", '{"lr": 0.001}'], "the smallest of equally frequent ones"
    assert _found(_sweep(tmp_path / "searched", change=lambda a, h, p: change(a, h, p) or True)) == {}


def test_repeated_and_unfinished_jobs(tmp_path: Path) -> None:
    _sweep(tmp_path)
    args = job_args("NuisanceDigits", "CIM", [0], 0, 0)
    hparams = {"lr": 1e-3, "batch_size": 32, "resnet18": False, "resnet50_augmix": True}
    _write(tmp_path / "again", args, hparams, {**PROVENANCE, "versions": VERSIONS})
    (tmp_path / "ERM-1-1-1" / "done").unlink()
    found = _found(tmp_path)
    assert set(found) == {"repeated", "missing"}
    assert "1 jobs of CIM are there more than once" in found["repeated"][0].text
    assert "1 of 18 jobs of ERM are not finished" in found["missing"][0].text


def test_a_selection_that_looks_at_the_test_domain(tmp_path: Path) -> None:
    (finding,) = _found(_sweep(tmp_path), rules=["oracle"])["selection"]
    assert "looked at the test domain" in finding.text and "--selection iid" in finding.mend


def test_trials_that_chose_defaults(tmp_path: Path) -> None:
    """They are a note, and a finding where a primary comparison is about them."""
    _sweep(tmp_path)
    (note,) = audit.notes(build.report([tmp_path]))
    assert note.kind == "tuned" and note.text == (
        "trials 0 to 2 of CIM, tested on new, chose cim_lambda (docs/method.md), and are no independent evidence for "
        "it."
    )
    assert note.mend == "fresh trials: --first_trial 520"
    primary.declare(tmp_path, Primary("CIM", "ERM", "new"), "iid", 0)
    assert _found(tmp_path)["tuned"] == [note] and audit.notes(build.report([tmp_path])) == []


@pytest.mark.parametrize(
    "change",
    [
        lambda a, h, p: a.update(trial_seed=a["trial_seed"] + 8),
        lambda a, h, p: a["test_envs"] != [2],
        lambda a, h, p: a.update(algorithm="VIB") if a["algorithm"] == "CIM" else None,
    ],
    ids=["trials", "environments", "methods"],
)
def test_other_trials_environments_and_methods_chose_nothing(change: Change, tmp_path: Path) -> None:
    assert audit.notes(build.report([_sweep(tmp_path, change=change)])) == []


@pytest.mark.parametrize(
    ("dataset", "weights", "words"),
    [
        ("VLCS", "ResNet50_Weights.IMAGENET1K_V1", "birds, cars, chairs and dogs"),
        ("PACS", "resnet50.ram_in1k", "Sketchy"),
        ("VLCS", "random", None),
        ("NuisanceDigits", None, None),
    ],
)
def test_weights_that_know_the_test_domain(
    dataset: str, weights: str | None, words: str | None, tmp_path: Path
) -> None:
    found = _found(_sweep(tmp_path, dataset, lambda a, h, p: p.update(weights=weights)))
    assert set(found) == ({"pretraining"} if words else set())
    if words:
        assert words in found["pretraining"][0].text


def _with_difference(folder: Path, differences: tuple[float, ...]) -> Path:
    for method in METHODS:
        for trial, difference in enumerate(differences, 8):  # the first that chose no defaults
            for env in range(ENVS):
                args = job_args("NuisanceDigits", method, [env], trial, 0)
                value = 0.6 + (difference if method == "CIM" else 0)
                _write(
                    folder / f"{method}{trial}{env}", args, {"lr": 1e-3}, {**PROVENANCE, "versions": VERSIONS}, value
                )
    return folder


def test_a_claim_with_too_few_trials(tmp_path: Path) -> None:
    """The paired difference is 2 points with a standard deviation of 2: it takes 10 trials (scipy: power .80)."""
    folder = _with_difference(tmp_path / "claimed", (0.0, 0.02, 0.04))
    assert _found(folder) == {}, "nothing is claimed"
    primary.declare(folder, Primary("CIM", "ERM", "new"), "iid", 0)
    (finding,) = _found(folder)["few trials"]
    assert "CIM against ERM in new: +2.0 points over 3 trials, and a difference of that size takes 10" in finding.text
    assert finding.mend == "--n_trials 10"
    clear = _with_difference(tmp_path / "clear", (0.100, 0.101, 0.099))
    primary.declare(clear, Primary("CIM", "ERM", "new"), "iid", 0)
    assert _found(clear) == {}


def test_erm_far_from_its_published_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "_COMPLETE", (SETTINGS, TRIALS))
    random = lambda a, h, p: p.update(weights="random")  # noqa: E731
    found = _found(_sweep(tmp_path / "far", "VLCS", random, value=0.70))
    assert all("ERM has 70.0 in" in finding.text for finding in found.pop("published")) and found == {}
    near = _found(_sweep(tmp_path / "near", "VLCS", random, value=0.775))
    assert not any("in Average" in finding.text for finding in near.get("published", []))
    monkeypatch.undo()
    assert _found(tmp_path / "far") == {}, "two settings are not the protocol of the published figures"


def _wilds(folder: Path, method: str, seed: int, **changes: Any) -> None:
    write_wilds_log(folder / f"{method}-{seed}", method, seed=seed)
    path = folder / f"{method}-{seed}" / "run.json"
    content = json.loads(path.read_text())
    config = {"dataset": "waterbirds", "model": "resnet50", "lr": 1e-3, "n_epochs": 2, "target_resolution": [224, 224]}
    content["config"] = config | {name: value for name, value in changes.items() if name in config}
    path.write_text(json.dumps(content | {name: value for name, value in changes.items() if name not in config}))


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("backbone", {"model": "resnet18"}),
        ("steps or epochs", {"n_epochs": 3}),
        ("resolution", {"target_resolution": [96, 96]}),
        ("learning rate", {"lr": 0.5}),
        ("weights", {"weights": "random"}),
        ("group labels", {"used_domains": True}),
    ],
)
def test_what_is_planted_in_wilds_is_found(kind: str, changes: dict[str, Any], tmp_path: Path) -> None:
    for method in METHODS:
        for seed in range(2):
            _wilds(tmp_path, method, seed, **({"weights": "file of ours"} | (changes if method == "CIM" else {})))
    (finding,) = _found(tmp_path)[kind]
    assert "CIM" in finding.text and set(_found(tmp_path)) == {kind}


def test_selection_by_groups_and_jobs_of_wilds_to_mend(tmp_path: Path) -> None:
    for method, seeds in (("ERM", 3), ("CIM", 2)):
        for seed in range(seeds):
            _wilds(tmp_path, method, seed)
    found = _found(tmp_path, rules=["worst-group"])
    assert set(found) == {"selection", "trials"}
    assert "used group labels" in found["selection"][0].text
    assert "cim-dg wilds train --dataset waterbirds --algorithm CIM" in found["trials"][0].mend


def test_strict_is_exit_code_1_and_the_page_has_the_findings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _sweep(tmp_path, change=_of_cim(lambda a, h, p: a.update(steps=900)))
    assert cli.main(["audit", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "NuisanceDigits: runs differ in steps or epochs" in out and "    to mend: " in out and "1 finding." in out
    assert cli.main(["audit", str(tmp_path), "--strict"]) == 1
    assert cli.main(["audit", str(tmp_path / "nowhere")]) == 2
    capsys.readouterr()
    assert cli.main(["collect", str(tmp_path), "--format", "html"]) == 0
    page = capsys.readouterr().out
    assert '<section id="audit">' in page and "CIM: 900 steps" in page


def test_many_methods_are_counted_and_fresh_trials_are_run_again_by_their_sweep(tmp_path: Path) -> None:
    for method in ("ERM", "CIM", "VIB", "SCL", "MMD"):
        for trial in range(2000, 2004 if method == "ERM" else 2003):
            hparams = {"lr": 3e-3 if method == "MMD" else 1e-3, "batch_size": 32}
            args = job_args("NuisanceDigits", method, [2], trial, 0) | {"hparams": '{"nuisance_shift": 4}'}
            _write(tmp_path / f"{method}-{trial}", args, hparams, PROVENANCE | {"versions": VERSIONS})
    found = _found(tmp_path)
    assert found["learning rate"][0].text == "runs differ in learning rate (MMD: 0.003; 4 others: 0.001)."
    assert "(ERM: 2000 to 2003; 4 others: 2000 to 2002)" in found["trials"][0].text
    assert found["trials"][0].mend.endswith(f": the `cim-dg sweep` that made {tmp_path}, again")
    assert found["learning rate"][0].mend == (
        f"all methods with one learning rate: the `cim-dg sweep` that made {tmp_path}, with --output_dir NEW --hparams "
        """'{"nuisance_shift": 4, "lr": 0.001}'"""
    )
