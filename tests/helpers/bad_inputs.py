"""Wrong inputs for every command, by a seeded generator, each run in this process and its outcome classified.

    table = run_bad_inputs(seed=0, count=2000)
    print(summary(table))           # outcomes by kind of input
    assert not bad(table), bad(table)

Kinds are `option` (values of the commands' options, which are taken from their parsers, so that new ones are covered),
and `yaml`, `record`, `image` and `checkpoint` (files of `bad_files`). Outcomes are

- refused: one sentence on stderr and exit code 2, and nothing left behind,
- accepted: the command did its work, and it is not certain that the input is wrong,
- failed: the same with one sentence and exit code 1 (such as a loss that is not finite),

and those of `BAD`: traceback; silent (an input that is certainly wrong is accepted); no sentence (an error that is not
one sentence); wrong code; hang; left behind (a file after an input was refused, or code of a checkpoint was executed).
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import random
import resource
import shlex
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import bad_files
import made_sweeps
import small_datasets
import torch
from bad_commands import DAMAGE, TRAIN, BadInput, draw, line

from cim_dg import cli
from cim_dg.domainbed.standin.lib.command import NOTICE
from cim_dg.wilds.config import defaults_folder

SECONDS = 30
"""After which a command counts as one that hangs."""
MEMORY = 8 * 2**30
"""Bytes that a command may add to this process."""
BAD = ("traceback", "silent", "no sentence", "wrong code", "hang", "left behind")


@dataclass(frozen=True)
class Outcome:
    """What became of an input: see the module for the values of `outcome`."""

    number: int
    kind: str
    outcome: str
    command: str
    about: str
    detail: str


def run_bad_inputs(seed: int, count: int) -> list[Outcome]:
    """Run `count` bad inputs in this process, the same ones for the same `seed`; a row for each."""
    with tempfile.TemporaryDirectory() as folder, _kept_process():
        template = Path(folder, "template")
        _make_files(template)
        table = []
        for number in range(count):
            rng = random.Random(f"{seed} {number}")
            table.append(_run(number, draw(rng), rng, template, Path(folder, "work")))
        return table


def summary(table: Sequence[Outcome]) -> str:
    """How often each kind of input had each outcome, a line for each kind."""
    counts = Counter((row.kind, row.outcome) for row in table)
    outcomes = ("refused", "accepted", "failed", *BAD)
    lines = ["kind        " + "".join(f"{name:>12}" for name in outcomes)]
    for kind in sorted({row.kind for row in table}):
        lines.append(f"{kind:12}" + "".join(f"{counts[kind, name]:>12}" for name in outcomes))
    return "\n".join(lines)


def bad(table: Sequence[Outcome]) -> list[Outcome]:
    """The rows whose outcome is one of `BAD`."""
    return [row for row in table if row.outcome in BAD]


def _run(number: int, given: BadInput, rng: random.Random, template: Path, work: Path) -> Outcome:
    """Run an input in a new copy of the files, and classify what it does."""
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(template, work)
    os.chdir(work)
    about = given.about if given.file is None else DAMAGE[given.kind](rng, Path(given.file))
    before = _listing(work)
    code, err, crash = _call(given.program, given.words)
    after = _listing(work)
    changed = sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))
    outcome, detail = judge(given.wrong, code, err, crash, changed)
    return Outcome(number, given.kind, outcome, shlex.join((given.program, *given.words)), about, detail)


def _call(program: str, words: Sequence[str]) -> tuple[int | None, str, str | None]:
    """The exit code, what is on stderr, and the traceback, if there is one; no code for a command that hangs."""
    if program.startswith("domainbed."):
        main, arguments = importlib.import_module(program).main, list(words)
    else:
        main, arguments = cli.main, [*program.split(), *words]
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", errors) for errors in ("strict", "backslashreplace"))
    code: Any = None
    crash = None
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), _kept_process(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        try:
            code = main(arguments)
        except SystemExit as end:
            code = end.code
        except _Hang:
            pass
        except BaseException:
            code, crash = 1, traceback.format_exc()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    err.seek(0)
    return code if code is None or isinstance(code, int) else 1, err.read(), crash


def judge(wrong: bool, code: int | None, err: str, crash: str | None, changed: list[str]) -> tuple[str, str]:
    """The outcome, and a line about it."""
    lines = [line for line in err.splitlines() if line.strip() and line != NOTICE]
    lines = [
        line for line in lines if not line.startswith(("usage:", " ", "warning:")) and "%|" not in line
    ]  # progress
    last = lines[-1] if lines else ""
    if crash is not None or "Traceback" in err:
        return "traceback", " | ".join((crash or err).strip().splitlines()[-3:])
    if code is None:
        return "hang", last
    if bad_files.EXECUTED in changed:
        return "left behind", "the checkpoint's code was executed"
    if code == 0:
        return ("silent" if wrong else "accepted"), last
    if "error: " not in last or sum("error: " in line for line in lines) > 1 or (code == 2 and len(lines) > 1):
        return "no sentence", " | ".join(lines[-3:])
    if code not in (1, 2) or (code == 1 and wrong):
        return "wrong code", f"{code}: {last}"
    if code == 2 and changed:
        return "left behind", f"{', '.join(changed[:4])}: {last}"
    return ("refused" if code == 2 else "failed"), last


class _Hang(BaseException):
    """A command takes too long."""


def _hang(*_: object) -> None:
    raise _Hang


@contextlib.contextmanager
def _kept_process() -> Iterator[None]:
    """What commands change about this process is as it was afterwards; its memory is limited meanwhile."""
    environment, folder, arguments, path = dict(os.environ), os.getcwd(), sys.argv, list(sys.path)
    threads, limits = torch.get_num_threads(), resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    handler, timer = signal.signal(signal.SIGALRM, _hang), signal.setitimer(signal.ITIMER_REAL, 0)
    start = time.monotonic()
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
        signal.signal(signal.SIGALRM, handler)
        if timer[0]:  # of pytest-timeout, say
            signal.setitimer(signal.ITIMER_REAL, max(1.0, timer[0] - (time.monotonic() - start)))
        torch.set_num_threads(threads)
        os.chdir(folder)
        sys.argv, sys.path[:] = arguments, path
        os.environ.clear()
        os.environ.update(environment)


def _listing(folder: Path) -> dict[str, tuple[int, int] | None]:
    """Size and time of every file below a folder; None of folders."""
    found: dict[str, tuple[int, int] | None] = {}
    for path in folder.rglob("*"):
        if path.name == ".lock":  # which stays in a folder that was there
            continue
        status = path.lstat()
        found[str(path.relative_to(folder))] = None if path.is_dir() else (status.st_size, status.st_mtime_ns)
    return found


def _make_files(folder: Path) -> None:
    """The good files that commands read: data, photos, runs of both harnesses, a sweep, and defaults."""
    small_datasets.waterbirds(folder / "data", (8, 2, 2, 4), (2, 2, 2, 2), (2, 2, 2, 2))
    for domain in "ab":
        for y, label in enumerate(("cat", "dog")):
            for index in range(4):
                small_datasets.save_image(folder / "photos" / domain / label / f"{index}.png", y, index)
    made_sweeps.write_sweep(folder / "jobs", "VLCS", 4, trials=2, hparams_seeds=1, steps=(0, 100), pairs=False)
    for number, job in enumerate(sorted((folder / "jobs").iterdir())):
        job.rename(job.with_name(str(number)))
    for name in ("ablation", "waterbirds"):
        text = resources.files("cim_dg.sweeps").joinpath(f"{name}.yaml").read_text(encoding="utf-8")
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    (folder / "defaults.yaml").write_text((defaults_folder() / "waterbirds.yaml").read_text(encoding="utf-8"))
    torch.save({"x": torch.zeros(3)}, folder / "weights.pth")
    os.chdir(folder)
    os.environ.update(CIM_DG_CACHE=str(folder.parent / "cache"), CIM_DG_DATASETS=str(folder.parent / "work" / "own"))
    code, err, crash = _call("wilds train", line(TRAIN | {"--log_dir": ["run"]}))
    assert code == 0, crash or err
