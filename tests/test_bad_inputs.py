"""Wrong inputs of every kind end in one sentence: a seeded sample (`bad_inputs` runs as many as are wanted)."""

from __future__ import annotations

import random

import bad_commands
import bad_inputs
import pytest
from bad_inputs import judge


def test_every_command_is_tried() -> None:
    programs = set(bad_commands.parsers())
    assert {"sweep", "wilds train", "collect", "domainbed.scripts.train"} <= programs
    assert set(bad_commands.GOOD) <= programs, "a command that is there no more"
    drawn = [bad_commands.draw(random.Random(seed)) for seed in range(2000)]
    assert {given.program for given in drawn} == programs
    assert {given.kind for given in drawn} == {"option", *bad_commands.FILES}


@pytest.mark.parametrize(
    ("outcome", "wrong", "code", "err", "crash", "changed"),
    [
        ("refused", True, 2, "cim-dg: error: lr is -1", None, []),
        ("refused", True, 2, "usage: cim-dg [-h]\n       x\ncim-dg: error: lr is -1", None, []),
        ("accepted", False, 0, "", None, ["out"]),
        ("failed", False, 1, "error: the loss is nan", None, ["out"]),
        ("silent", True, 0, "", None, []),
        ("traceback", True, 1, "Traceback (most recent call last):\nValueError: x", None, []),
        ("traceback", True, 1, "", "ValueError: x", []),
        ("no sentence", True, 2, "x\ny: error: z", None, []),
        ("no sentence", False, 1, "", None, []),
        ("wrong code", True, 1, "error: the loss is nan", None, []),
        ("hang", True, None, "", None, []),
        ("left behind", True, 2, "error: lr is -1", None, ["out"]),
        ("left behind", False, 0, "", None, ["executed-by-a-checkpoint"]),
    ],
)
def test_outcomes(outcome: str, wrong: bool, code: int, err: str, crash: str | None, changed: list[str]) -> None:
    assert judge(wrong, code, err, crash, changed)[0] == outcome


def test_a_sample_ends_well() -> None:
    assert bad_commands.draw(random.Random("7 3")) == bad_commands.draw(random.Random("7 3"))
    table = bad_inputs.run_bad_inputs(seed=7, count=24)
    assert [row.number for row in table] == list(range(24))
    assert not bad_inputs.bad(table), bad_inputs.summary(table)


@pytest.mark.slow
def test_a_larger_sample_ends_well() -> None:
    table = bad_inputs.run_bad_inputs(seed=8, count=300)
    assert not bad_inputs.bad(table), bad_inputs.summary(table)
