"""The report of `make bench-gpu`: the whole of it in small on a CPU, and its parts, those for GPUs with doubles."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks.gpu import __main__ as report
from benchmarks.gpu import agreement, data_parallel, jobs, memory, timing, waits
from benchmarks.gpu.draws import CpuDraws
from benchmarks.gpu.section import Row, Section, Setup, each, measure
from benchmarks.perceptual import contestants

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    return Setup(CPU, False, ("ERM", "CIM"), 1, tmp_path)


@pytest.mark.slow
def test_the_whole_report_in_small(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.gpu", "--device", "cpu", "--small", "--repeats", "1"]
    finished = subprocess.run(
        [*command, "--algorithms", "ERM", "CIM"],
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    for section in report.SECTIONS.values():
        _, _, after = finished.stdout.partition(f"### {section.title}\n\n")
        table = after.partition("\n\n")[0].splitlines()
        cells = [cell.strip() for cell in table[0].strip("|").split("|")]
        assert cells == list(section.headings) and len(table) > 2, f"{section.name}: {after[:400]}"
    for wrong in ("failed", "stopped after", "NO "):
        assert wrong not in finished.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("words", [[], ["--small"], ["--device", "cpu"], ["--repeats", "0"]])
def test_without_a_gpu_it_is_one_sentence(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with mock.patch.object(sys, "argv", ["benchmarks.gpu", *words]):
        assert report.exit_code(report.main) == 2
    said = capsys.readouterr()
    assert said.out == "" and len(said.err.splitlines()) == 1


def test_all_sections_take_less_than_eight_minutes() -> None:
    assert sum(section.limit for section in report.SECTIONS.values()) <= 460


def right(setup: Setup) -> Iterator[Row]:
    yield Row(("a", "1 | 2"))


def wrong(setup: Setup) -> Iterator[Row]:
    yield Row(("a", "1"), right=False)


def fails(setup: Setup) -> Iterator[Row]:
    yield Row(("a", "1"))
    raise ValueError("no such\nthing")


def one_fails(setup: Setup) -> Iterator[Row]:
    yield from each(["a", "b"], lambda name: Row((name, "1")) if name == "a" else Row((name, f"{1 / 0}")))


def dies(setup: Setup) -> Iterator[Row]:
    yield Row(("a", "1"))
    os.kill(os.getpid(), signal.SIGKILL)


def hangs(setup: Setup) -> Iterator[Row]:
    child = subprocess.Popen(["sleep", "600"])
    yield Row(("a", str(child.pid)))
    time.sleep(600)


@pytest.mark.parametrize(
    ("rows", "last", "passes"),
    [
        (right, "| a", True),
        (wrong, "| a", False),
        (fails, "| failed: ValueError: no such thing", False),
        (one_fails, "| b | failed: ZeroDivisionError: division by zero", False),
        (dies, "| failed: its process died, exit code -9", False),
        (hangs, "| stopped after 1 s, its time limit", True),
    ],
)
def test_a_section_ends_whatever_happens(setup: Setup, rows: Any, last: str, passes: bool) -> None:
    text, passed = measure(Section("name", "Title", ("x", "y"), 1, rows), setup)
    lines = text.splitlines()
    assert lines[:2] == ["### Title", ""] and lines[2].split() == ["|", "x", "|", "y", "|"]
    assert lines[4].startswith("| a ") and passed == passes
    assert " ".join(lines[-1].split()).startswith(last)
    if rows is hangs:  # what it has started ends with it
        pid = int(lines[4].split("|")[2])
        for _ in range(100):
            if not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text().split()[2]:
                return
            time.sleep(0.05)
        raise AssertionError(f"process {pid} goes on")


class Event:
    """A double of torch.cuda.Event: the clock goes on by a second for each call of the device."""

    clock = 0

    def __init__(self, enable_timing: bool) -> None:
        self.ended = not enable_timing

    def record(self) -> None:
        self.at = Event.clock

    def synchronize(self) -> None:
        self.ended = True

    def elapsed_time(self, end: Event) -> float:
        assert end.ended
        return 1000.0 * (end.at - self.at)


def test_times_are_of_cuda_events_on_a_gpu() -> None:
    order = []

    def run(name: str, seconds: int) -> None:
        order.append(name)
        Event.clock += seconds

    with mock.patch.object(torch.cuda, "Event", Event):
        runs = {"a": lambda: run("a", 3), "b": lambda: run("b", 5)}
        assert timing.by_turns(runs, torch.device("cuda"), 3) == {"a": 3.0, "b": 5.0}
    assert order == ["a", "b"] * (timing.WARM_UP + 3)


def test_tf32_is_set_back() -> None:
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_tf32
    for allowed in (True, False):
        with timing.tf32(allowed):
            assert matmul.allow_tf32 == torch.backends.cudnn.allow_tf32 == allowed
        assert matmul.allow_tf32 == before


def test_waits_are_counted_by_line() -> None:
    modes: list[str] = []

    def run() -> None:
        for _ in range(2):
            warnings.warn("called a synchronizing CUDA operation (Triggered internally)", stacklevel=1)
        warnings.warn("something else", stacklevel=1)

    with mock.patch.object(torch.cuda, "set_sync_debug_mode", modes.append):
        found = waits.waits(run)
    assert list(found.values()) == [2] and next(iter(found)).startswith("test_gpu.py:") and modes == ["warn", "default"]


def test_the_peak_is_read_after_the_steps(setup: Setup) -> None:
    counters = SimpleNamespace(reset=0)
    with (
        mock.patch.object(torch.cuda, "empty_cache"),
        mock.patch.object(torch.cuda, "reset_peak_memory_stats", lambda: setattr(counters, "reset", 1)),
        mock.patch.object(torch.cuda, "max_memory_allocated", lambda: counters.reset * 2**30),
        mock.patch.object(torch.cuda, "max_memory_reserved", lambda: counters.reset * 2**31),
        mock.patch.object(torch.cuda, "mem_get_info", lambda: (5 * 2**30, 8 * 2**30)),
    ):
        small = Setup(CPU, True, setup.algorithms, 1, setup.folder)
        assert memory.peak(small, "ERM") == (1.0, 2.0, 3.0)


def test_draws_are_the_cpus() -> None:
    def draw() -> list[torch.Tensor]:
        torch.manual_seed(0)
        like, own = torch.empty(3), torch.Generator().manual_seed(1)
        drawn = [torch.rand(2, 3), torch.randn_like(like), torch.randperm(5), like.normal_()]
        return [*drawn, torch.nn.functional.dropout(torch.ones(8)), torch.rand(2, generator=own), torch.rand(1)]

    expected = draw()
    with CpuDraws():
        torch.testing.assert_close(draw(), expected, rtol=0, atol=0)
        torch.manual_seed(0)
        drawn = [
            torch.rand(2, 3, device="meta"),
            torch.randint(5, (4,), device="meta"),
            torch.randperm(5, device="meta"),
        ]
        assert {value.device.type for value in drawn} == {"meta"}
        after = torch.rand(1)
    torch.manual_seed(0)
    torch.rand(2, 3), torch.randint(5, (4,)), torch.randperm(5)
    assert torch.equal(after, torch.rand(1))  # as many were drawn from the CPU's generator


@pytest.mark.parametrize("dtype", agreement.LIMITS)
def test_a_difference_is_seen(setup: Setup, dtype: torch.dtype) -> None:
    _, expected = agreement.loss_and_gradients("CIM", CPU, dtype, 12, 20)
    assert {gradient.dtype for gradient in expected} == {dtype}
    changed = [gradient.clone() for gradient in expected]
    changed[3].view(-1)[0] += 2 * agreement.LIMITS[dtype] * max(gradient.abs().max().item() for gradient in expected)
    assert agreement.difference(expected, expected) == 0
    assert agreement.difference(changed, expected) > agreement.LIMITS[dtype]
    changed[3].view(-1)[0] = float("nan")
    assert agreement.difference(changed, expected) == float("inf")


def test_a_method_that_differs_is_an_error(setup: Setup) -> None:
    small, given = Setup(CPU, True, ("ERM",), 1, setup.folder), agreement.loss_and_gradients
    calls = []

    def of_device(*arguments: Any) -> Any:
        calls.append(arguments)
        loss, gradients = given(*arguments)
        return [loss[0] * (1 + 0.01 * (len(calls) == 4))], gradients

    with mock.patch.object(agreement, "loss_and_gradients", of_device):
        (row,) = agreement.rows(small)
    assert not row.right and row.cells[-1] == "NO"


@pytest.fixture
def fake_gpu() -> Iterator[torch.device]:
    """Tensors of this device hold nothing; an operation of one with a CPU's is an error, as on a GPU. Nothing goes
    backward on it: autograd asks the driver."""
    for side in (36, 176):  # keeps numbers that are read once, and fakes have none
        contestants(1, 1, side)[1][0]()
    with FakeTensorMode(), mock.patch.object(torch.cuda, "is_current_stream_capturing", lambda: False):
        yield torch.device("cuda")


@pytest.mark.parametrize(("side", "count"), [(36, 1), (176, 2)])
def test_what_the_contestants_take_is_on_the_gpu(fake_gpu: torch.device, side: int, count: int) -> None:
    _, compared = contestants(2, 3, side, fake_gpu)
    assert len(compared) == count
    for contestant in compared:
        assert {value.device.type for value in contestant()} == {"cuda"}


def test_a_part_that_differs_is_an_error(setup: Setup) -> None:
    """DataParallel's part: BatchNorm's statistics of another model stand for a GPU that computes something else."""

    class Other(torch.nn.Module):
        def __init__(self, model: torch.nn.Module) -> None:
            super().__init__()
            self.model = model

        def forward(self, *batch: torch.Tensor) -> Any:
            logits, terms = self.model(*batch)
            return logits + 0.1, terms

    small = Setup(CPU, True, ("ERM",), 1, setup.folder)
    assert data_parallel.compare(small, "ERM", 0).right
    with mock.patch.object(torch.nn, "DataParallel", Other):
        assert not data_parallel.compare(small, "ERM", 0).right


def test_records_leave_out_a_line_that_is_being_written(tmp_path: Path) -> None:
    assert jobs.records(tmp_path) == []
    (tmp_path / "results.jsonl").write_text('{"step": 0}\n{"step": 1}\n{"st')
    assert [record["step"] for record in jobs.records(tmp_path)] == [0, 1]
