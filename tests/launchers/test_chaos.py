"""A short part of `make chaos`, and what it counts."""

from __future__ import annotations

from pathlib import Path

import chaos
import pytest
from chaos import STANDIN, Campaign, Case, compare, markdown

PEACE: chaos.Records = {"a": {("done",): True, (0,): {"loss": 1.0}, (50,): {"loss": 0.5}}, "b": {("done",): True}}


@pytest.mark.slow
def test_nothing_is_lost_doubled_or_different(tmp_path: Path) -> None:
    campaign = Campaign(tmp_path, seed=1)
    counted = campaign.run(Case(STANDIN, "pool"), kills=3)
    assert counted["tried"] == 3
    assert campaign.problems == []
    assert +counted == {"tried": 3}


def test_a_disturbed_sweep_that_is_as_one_in_peace() -> None:
    assert compare(PEACE, dict(PEACE)) == {"lost": [], "doubled": [], "different": []}


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        ("lost", {"b": PEACE["b"]}),
        ("lost", PEACE | {"a": {("done",): True, (0,): {"loss": 1.0}}}),
        ("lost", PEACE | {"b": {}}),
        ("doubled", PEACE | {"a": PEACE["a"] | {(50,): None}}),
        ("different", PEACE | {"a": PEACE["a"] | {(50,): {"loss": 0.6}}}),
        ("different", PEACE | {"c": {("done",): True}}),
    ],
)
def test_what_is_counted(kind: str, found: chaos.Records) -> None:
    assert {name: len(jobs) for name, jobs in compare(PEACE, found).items() if jobs} == {kind: 1}


def test_a_record_that_is_there_twice_is_seen(tmp_path: Path) -> None:
    job = tmp_path / "jobs" / "a"
    job.mkdir(parents=True)
    line = '{"step": 0, "loss": 1.0, "args": {"output_dir": "x"}}\n'
    (job / "results.jsonl").write_text(line)
    once = chaos.read(STANDIN, tmp_path)
    (job / "results.jsonl").write_text(2 * line)
    assert compare(once, chaos.read(STANDIN, tmp_path))["doubled"] == ["a"]


def test_the_table() -> None:
    lines = markdown({"x": {"tried": 2}, "y": {"tried": 3, "lost": 1}}).splitlines()
    assert lines[0] == "| | tried | lost | doubled | different | tracebacks | hangs |"
    assert lines[2:] == [
        "| x | 2 | 0 | 0 | 0 | 0 | 0 |",
        "| y | 3 | 1 | 0 | 0 | 0 | 0 |",
        "| all | 5 | 1 | 0 | 0 | 0 | 0 |",
    ]


def test_roles() -> None:
    assert chaos.role_of("python -m cim_dg.launchers.worker ") == chaos.role_of("ray::run ") == "worker"
    assert chaos.role_of("python -m domainbed.scripts.train --x ") == "job"
    assert chaos.role_of("/x/ray/core/src/ray/raylet/raylet --raylet_socket_name=y") == "machine"
    assert chaos.role_of("ray::DashboardAgent   ") == "machine"
    assert chaos.role_of("/x/ray/core/src/ray/gcs/gcs_server --log_dir=y") is None
