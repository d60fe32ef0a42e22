"""Whether a killed job of the stand-in goes on where another number of GPUs is visible."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.gpu.jobs import records, train_arguments
from benchmarks.gpu.section import NEEDS_CUDA, Row, Section, Setup
from cim_dg.domainbed.launchers import TRAIN
from cim_dg.errors import RunError
from cim_dg.runtime import devices

GOES_ON = "Going on after step"
UNCHANGED = ("args", "hparams")


def rows(setup: Setup) -> Iterator[Row]:
    """From a GPU to the CPU, and back."""
    if not setup.cuda:
        yield resumed(setup, "", "")
        yield Row(("0", "", NEEDS_CUDA))
        return
    first = devices.gpus()[0]
    for before, after in ((first, ""), ("", first)):
        yield resumed(setup, before, after)


def resumed(setup: Setup, before: str, after: str) -> Row:
    """Kill a job after its second record, and let it end where other GPUs are visible."""
    folder = setup.folder / f"resume-{before or 'none'}-{after or 'none'}"
    folder.mkdir(parents=True)
    steps, every = (6, 2) if setup.small else (60, 10)
    arguments = train_arguments(folder, steps, every, setup.small)
    with (folder.parent / "first.txt").open("wb") as output:
        process = start(folder, arguments, before, output.fileno())
        while len(records(folder)) < 2 or not (folder / "checkpoint.pt").exists():
            if process.poll() is not None:
                raise RunError(f"the job ended before it could be killed, exit code {process.returncode}")
            time.sleep(0.02)
        process.kill()
        process.wait()
    half = records(folder)
    with (folder.parent / "second.txt").open("wb") as output:
        code = start(folder, arguments, after, output.fileno()).wait()
    printed = (folder.parent / "second.txt").read_text(encoding="utf-8", errors="replace")
    if code:
        raise RunError(f"exit code {code}: {printed.strip().splitlines()[-1]}")
    whole = records(folder)
    went_on = [line for line in printed.splitlines() if line.startswith(GOES_ON)]
    expected = [*range(0, steps, every), *([steps - 1] if (steps - 1) % every else [])]
    right = (
        bool(went_on)
        and [record["step"] for record in whole] == expected
        and whole[: len(half) - 1] == half[: len(half) - 1]
        and all(record[name] == whole[0][name] for record in whole for name in UNCHANGED)
        and (folder / "done").exists()
    )
    visible = (before or "none", after or "none")
    said = went_on[0].removeprefix(f"{GOES_ON} ").split(",")[0] if went_on else "it started over"
    return Row((*visible, said, f"{len(whole)} of {len(expected)}", "yes" if right else "NO"), right)


def start(folder: Path, arguments: list[str], visible: str, output: int) -> subprocess.Popen[bytes]:
    """Start the job's process with these GPUs and a checkpoint after each step."""
    environment = os.environ | {devices.VISIBLE: visible, "CIM_DG_CHECKPOINT_SECONDS": "0"}
    words = [sys.executable, *TRAIN[1:], *arguments]
    return subprocess.Popen(words, env=environment, stdout=output, stderr=output)


SECTION = Section(
    "resume",
    "A job of the stand-in, killed and resumed under another CUDA_VISIBLE_DEVICES",
    ("begun with", "resumed with", "after step", "records", "same arguments, hparams and records"),
    45,
    rows,
)
