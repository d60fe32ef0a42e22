"""Each variable is declared once, read through one function, and shown from its declaration."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import cim_dg
from cim_dg.errors import UserError
from cim_dg.runtime import settings

ROOT = Path(cim_dg.__file__).parents[1]


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch):
    for name in settings.SETTINGS:
        monkeypatch.delenv(name, raising=False)


def test_every_variable_that_the_code_names_is_declared_and_read_in_one_place():
    named, readers = set(), []
    for path in ROOT.glob("[!.]*/**/*.py"):
        text = path.read_text(encoding="utf-8")
        if {"tests", "benchmarks", "build"} & set(path.relative_to(ROOT).parts):
            continue
        named |= set(re.findall(r"\bCIM_DG_[A-Z][A-Z_]*[A-Z]\b", text))
        if re.search(r"environ(\.get)?[(\[]\s*\"CIM_DG_", text):
            readers.append(path.name)
    assert named == set(settings.SETTINGS)
    assert readers == ["autoload.py"]


def test_defaults_and_values(monkeypatch):
    assert settings.get("CIM_DG_CHECKPOINT_SECONDS") == 30
    monkeypatch.setenv("CIM_DG_CHECKPOINT_SECONDS", "")
    assert settings.get("CIM_DG_CHECKPOINT_SECONDS") == 30
    monkeypatch.setenv("CIM_DG_CHECKPOINT_SECONDS", "0")
    assert settings.get("CIM_DG_CHECKPOINT_SECONDS") == 0
    monkeypatch.setenv("CIM_DG_LOG", "tensorboard,wandb")
    assert settings.get("CIM_DG_LOG") == ("tensorboard", "wandb")
    monkeypatch.setenv("CIM_DG_SLURM", "{timeout_min: 3}")
    assert settings.get("CIM_DG_SLURM") == {"timeout_min": 3}


@pytest.mark.parametrize(("value", "share"), [("", None), ("0", 0), ("0.25", 0.25), ("2", 2)])
def test_shares(monkeypatch, value, share):
    monkeypatch.setenv("CIM_DG_GPUS_PER_JOB", value)
    assert settings.get("CIM_DG_GPUS_PER_JOB") == share


@pytest.mark.parametrize(
    ("name", "value", "accepted"),
    [
        *(
            ("CIM_DG_GPUS_PER_JOB", value, "0, a fraction such as 0.25")
            for value in ("-1", "1.5", "half", "nan", "inf")
        ),
        *(("CIM_DG_JOBS", value, "a whole number of at least 1") for value in ("0", "-1", "two", "1.5", "²", "٣")),
        *(("CIM_DG_CACHE_GB", value, "a number of gigabytes") for value in ("-1", "much", "nan", "inf")),
        *(("CIM_DG_SLURM", value, "names with values") for value in ("a day", "{", "[1]")),
        ("CIM_DG_SLURM_CLUSTER", "pbs", "slurm or local"),
        ("CIM_DG_STANDIN", "no", "0 or 1"),
    ],
)
def test_what_is_not_accepted_is_one_sentence(monkeypatch, name, value, accepted):
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=re.escape(f"{name} is {value!r}; accepted is {accepted}")):
        settings.get(name)
    assert (name, "environment") in [(row[0], row[2]) for row in settings.describe() if value in row[1]]


def test_the_table_and_the_description_come_from_the_declarations(monkeypatch):
    monkeypatch.setenv("CIM_DG_JOBS", "3")
    described = {name: (value, source) for name, value, source in settings.describe()}
    assert described["CIM_DG_JOBS"] == ("3", "environment")
    assert described["CIM_DG_CACHE_GB"] == ("20", "default")
    lines = settings.table().splitlines()
    assert len(lines) == 2 + len(described) and all(line.count("|") == 5 for line in lines)


def test_it_is_cheap_to_import():
    code = "import sys; before = set(sys.modules); import cim_dg.runtime.settings; print(*set(sys.modules) - before)"
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(cim_dg.__file__).parents[1],
    )
    heavy = {"torch", "numpy", "yaml", "pydantic"}
    assert not heavy & {name.partition(".")[0] for name in done.stdout.split()}
