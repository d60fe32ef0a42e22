"""Sweeps as YAML: those of the package, one's own, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from cim_dg.errors import UserError
from cim_dg.sweeps.spec import load, names

GOOD = {
    "title": "Mine",
    "harness": "domainbed",
    "datasets": ["PACS"],
    "algorithms": ["ERM", "CIM"],
    "n_trials": 2,
    "selection": "oracle",
    "data": ["PACS"],
    "table": "pacs",
}


def _file(folder: Path, entries: object) -> str:
    path = folder / "mine.yaml"
    path.write_text(entries if isinstance(entries, str) else yaml.safe_dump(entries))
    return str(path)


def test_the_packages_sweeps_are_right() -> None:
    assert names() == [
        *("ablation", "ablation-colored-mnist", "ablation-correlated", "ablation-few", "ablation-plain"),
        *(
            "against-domainbed",
            "backgrounds",
            "camelyon17",
            "celeba",
            "contrast",
            "digits",
            "digits-fresh",
            "fmow",
            "iwildcam",
            "photographs",
            "vlcs",
            "waterbirds",
            "waterbirds-digits",
        ),
    ]
    for name in names():
        spec = load(name)
        if spec.variants or name == "against-domainbed":
            continue
        if name == "waterbirds-digits":  # what the demo shows of WILDS
            assert spec.algorithms == ("ERM", "CIM")
            continue
        assert {"ERM", "VIB", "SCL", "CIM", "CIM_VIB"} <= set(spec.algorithms)
    assert load("ablation-colored-mnist").variants == load("ablation").variants, "the same choices on both data sets"
    assert load("camelyon17").n_trials == 10, "what the leaderboard wants"
    seen = {seed for name in ("ablation", "digits", "contrast") for seed in load(name).trials}
    assert not seen & set(load("digits-fresh").trials), "trials that chose something"


def test_ones_own(tmp_path: Path) -> None:
    spec = load(_file(tmp_path, GOOD | {"steps": 50, "hparams": {"lr": 0.1}}))
    assert (spec.datasets, spec.steps, spec.hparams, spec.n_hparams) == (("PACS",), 50, {"lr": 0.1}, 1)


def test_the_command_line_changes_it() -> None:
    spec = load("digits", {"n_trials": 5, "selection": "oracle", "algorithms": ["CIM"], "steps": None})
    assert (spec.n_trials, spec.selection, spec.algorithms, spec.steps) == (5, "oracle", ("CIM",), None)
    assert load("waterbirds", {"n_trials": 1}).n_trials == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"algorithm": ["ERM"]}, "unknown entry 'algorithm'; accepted are title, harness"),
        ({"title": None}, "title is None"),
        ({"algorithms": []}, "a list of at least 1 text"),
        ({"algorithms": "ERM"}, "a list of at least 1 text"),
        ({"algorithms": ["ERM", "ERM"]}, "no name comes twice"),
        ({"n_trials": 0}, "n_trials is 0"),
        ({"first_trial": -1}, "first_trial is -1"),
        ({"n_hparams": True}, "n_hparams is True"),
        ({"harness": "lightning"}, "one of domainbed, wilds"),
        ({"selection": "worst-group"}, "iid, leave-one-out, oracle for domainbed"),
        ({"hparams": [1]}, "names with values"),
        ({"options": {"lr": 1}}, "options is an entry of sweeps of wilds"),
        ({"harness": ["wilds"]}, r"harness is \['wilds'\]; accepted is one of"),
        ({"data": [""]}, "data has ''; accepted are paths in the folder of the data"),
        ({"data": ["/VLCS"]}, "data has '/VLCS'; accepted are paths"),
        ({"data": ["a**"]}, r"data has 'a\*\*'; accepted are paths"),
        ({"data": "VLCS"}, "data is 'VLCS'; accepted is a list of texts"),
        ({"variants": []}, "variants is .*; accepted is names with values, or null"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, change: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load(_file(tmp_path, GOOD | change))


@pytest.mark.parametrize(
    ("text", "message"), [("a: [", "is not YAML"), ("- a", "names with values"), ("title: x", "'harness' is missing")]
)
def test_what_is_no_sweep_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load(_file(tmp_path, text))


def test_names_that_are_not_there() -> None:
    with pytest.raises(
        UserError,
        match=r"there are ablation.*, against-domainbed, backgrounds, camelyon17, celeba, contrast, digits",
    ):
        load("mnist")
    with pytest.raises(UserError, match="cannot be read"):
        load("nowhere.yaml")


def test_a_change_of_another_harness_is_refused() -> None:
    with pytest.raises(UserError, match="steps is an entry of sweeps of domainbed, not of wilds"):
        load("waterbirds", {"steps": 5})
