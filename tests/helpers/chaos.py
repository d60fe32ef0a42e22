"""Kills processes of sweeps at random moments, and compares the results with those of sweeps that were left in peace.

    python tests/helpers/chaos.py --kills 100 --inputs 2000

A case is a harness (the stand-in, WILDS, and the real DomainBed of DOMAINBED_ROOT) with a launcher. A round of a case
starts `cim-dg sweep` in a new folder, kills some of its processes by SIGKILL (the launcher, a worker, a job, a machine
of Ray), starts the same command again whenever it has ended with another code than 0, and compares the records of all
jobs at the end. What is killed, and after how many seconds, depends on the seed. The table in Markdown counts

- tried: kills, or bad inputs (those of `bad_inputs`),
- lost: jobs that are not done in the end, or whose records are fewer,
- doubled: jobs with a record that is there twice,
- different: jobs whose records have other values,
- tracebacks: commands that print one,
- hangs: commands that do not end, and processes that outlive their launcher (agents of Ray's own apart).
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

COLUMNS = ("tried", "lost", "doubled", "different", "tracebacks", "hangs")
KILLS_PER_ROUND = 6
ATTEMPTS = 15
"""How often a command is started in a round, at most."""
LIMIT = 420.0
"""Seconds after which a command that is not disturbed any more counts as one that hangs."""
GONE = 60.0
"""Seconds that the processes of a killed launcher may live on."""
STANDIN, WILDS, REAL = "stand-in", "WILDS", "DomainBed"
_SWEEP = {
    "title": "chaos",
    "harness": "domainbed",
    "datasets": ["NuisanceDigits"],
    "algorithms": ["ERM"],
    "n_trials": 1,
    "selection": "iid",
    "steps": 101,
    "hparams": {"batch_size": 8, "nuisance_digits": 30},
    "data": [],
    "table": "digits",
}
SWEEPS: dict[str, dict[str, Any]] = {
    STANDIN: _SWEEP,
    REAL: _SWEEP | {"steps": 51},  # its jobs start over
    WILDS: {
        "title": "chaos",
        "harness": "wilds",
        "datasets": ["waterbirds"],
        "algorithms": ["ERM", "CIM"],
        "n_trials": 1,
        "selection": "average",
        "data": ["waterbirds_v*"],
        "table": "waterbirds-format",
        "options": {"defaults": "digits", "n_epochs": 3, "frac": 0.1, "batch_size": 8, "log_every": 5},
    },
}
Records = dict[str, dict[tuple[Any, ...], Any]]
"""Of each job: the values of each of its records."""


@dataclass(frozen=True)
class Case:
    """A harness, a launcher, and the processes that are killed."""

    harness: str
    launcher: str

    def __str__(self) -> str:
        return f"{self.harness}, `{self.launcher}`"


def cases() -> list[Case]:
    """Those that can run here."""
    from importlib.util import find_spec

    launchers = ["pool", "parallel", *(["ray"] if find_spec("ray") else [])]
    found = [Case(harness, launcher) for harness in (STANDIN, WILDS) for launcher in launchers]
    if os.environ.get("DOMAINBED_ROOT"):
        found += [Case(REAL, launcher) for launcher in launchers]
    return found


class Campaign:
    """Rounds of sweeps in a folder, and what is counted of them.

    Args:
        folder: an empty one, for everything that is written.
        seed: of what is killed, and when.
    """

    def __init__(self, folder: Path, seed: int = 0) -> None:
        self.folder, self._seed, self._rng = folder, seed, random.Random(seed)
        self._undisturbed: dict[str, tuple[Records, float]] = {}
        self.counts: dict[str, Counter[str]] = {}
        self.problems: list[str] = []

    def run(self, case: Case, kills: int) -> Counter[str]:
        """Rounds of a case until so many processes have been killed; returns what is counted."""
        counted = self.counts.setdefault(str(case), Counter())
        self._rng = random.Random(f"{self._seed} {case}")  # whatever other cases there are
        expected, seconds = self._in_peace(case.harness)
        for number in range(4 * kills):
            if counted["tried"] >= kills:
                return counted
            folder = self.folder / f"{case.harness}-{case.launcher}-{number}"
            self._round(case, folder, min(KILLS_PER_ROUND, kills - counted["tried"]), seconds, counted)
            for kind, jobs in compare(expected, read(case.harness, folder)).items():
                self._count(counted, kind, [f"{folder}: {kind}: {job}" for job in jobs])
        raise RuntimeError(f"{case}: the sweeps end before anything can be killed")

    def _in_peace(self, harness: str) -> tuple[Records, float]:
        """The records of a sweep of that harness that nothing happens to, and the seconds that it takes."""
        if harness not in self._undisturbed:
            case = Case(harness, "parallel" if harness == REAL else "pool")
            folder = self.folder / f"{harness}-in-peace"
            start = time.monotonic()
            with self._sweep(case, folder) as process:
                code = process.wait(LIMIT)
            if code:
                raise RuntimeError(f"an undisturbed sweep ends with {code}: {_printed(folder)}")
            self._undisturbed[harness] = read(harness, folder), time.monotonic() - start
        return self._undisturbed[harness]

    def _round(self, case: Case, folder: Path, kills: int, seconds: float, counted: Counter[str]) -> None:
        for _ in range(ATTEMPTS):
            with self._sweep(case, folder) as process:
                while kills:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(self._rng.uniform(0, seconds / 3))
                        break
                    kills -= 1
                    counted["tried"] += 1
                    self._kill(process, counted, f"{case} in {folder}")
                try:
                    code = process.wait(LIMIT)
                except subprocess.TimeoutExpired:
                    self._count(counted, "hangs", [f"{folder}: the command does not end"])
                    return
            if "Traceback (most recent call last)" in (printed := _printed(folder)):
                self._count(counted, "tracebacks", [f"{folder}: {printed}"])
            if code == 0:
                return
            time.sleep(0.5)  # those who were killed may hold their locks for an instant
        self.problems.append(f"{folder}: not done after {ATTEMPTS} attempts: {_printed(folder)}")

    def _kill(self, process: subprocess.Popen[bytes], counted: Counter[str], where: str) -> None:
        """Kill a process of a sweep; those below it must go with it."""
        by_role: dict[str, list[int]] = {"launcher": [process.pid]}
        for pid, command in family(process.pid).items():
            if role := role_of(command):
                by_role.setdefault(role, []).append(pid)
        role = self._rng.choice(sorted(by_role))
        victim = self._rng.choice(sorted(by_role[role]))
        below = {pid: _born(pid) for pid, command in family(victim).items() if not _is_agent(command)}
        with contextlib.suppress(ProcessLookupError):  # it has just ended
            os.kill(victim, signal.SIGKILL)
        deadline = time.monotonic() + GONE
        while alive := [pid for pid, born in below.items() if born is not None and _born(pid) == born]:
            if time.monotonic() > deadline:
                commands = [_command(pid).strip() for pid in alive]
                self._count(counted, "hangs", [f"{where}: these outlive the {role}: {commands}"])
                for pid in alive:
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.1)

    @contextlib.contextmanager
    def _sweep(self, case: Case, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
        """The command of a sweep, which is killed at the end if it has not ended."""
        folder.mkdir(exist_ok=True)
        spec = self.folder / f"{case.harness}.yaml"
        data = self.folder / "data"
        if case.harness == WILDS and not data.exists():
            from cim_dg.wilds.digits import write_digits

            write_digits(data)
        spec.write_text(yaml.safe_dump(SWEEPS[case.harness]))
        words = ["-m", "cim_dg.cli", "sweep", str(spec), "--output_dir", str(folder / "jobs"), "--skip_confirmation"]
        words += ["--command_launcher", case.launcher, "--skip_model_save"]
        words += ["--data_dir", str(data)] if case.harness == WILDS else []
        with (
            open(folder / "printed.txt", "wb") as printed,
            subprocess.Popen(
                [sys.executable, *words],
                cwd=self.folder,
                env=os.environ | _variables(case),
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=subprocess.STDOUT,
            ) as process,
        ):
            try:
                yield process
            finally:
                for pid in [process.pid, *family(process.pid)] if process.poll() is None else ():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)

    def _count(self, counted: Counter[str], kind: str, problems: Sequence[str]) -> None:
        counted[kind] += len(problems)
        self.problems += problems


def _variables(case: Case) -> dict[str, str]:
    ours = {"OMP_NUM_THREADS": "1", "CIM_DG_JOBS": "2", "CIM_DG_CHECKPOINT_SECONDS": "0", "RAY_ADDRESS": "local"}
    ours |= {
        "CIM_DG_MAX_FAILURES": "1000",
        "CIM_DG_RETRIES": "4",
        "PYTHONDONTWRITEBYTECODE": "1",
        "CIM_DG_SKIP_MODEL_SAVE": "",
    }
    path = os.environ.get("PYTHONPATH")
    roots = [os.environ["DOMAINBED_ROOT"]] if case.harness == REAL else []
    return ours | {"PYTHONPATH": os.pathsep.join([*roots, *([path] if path else [])])}


def _printed(folder: Path) -> str:
    return (folder / "printed.txt").read_text(errors="replace")[-3000:]


def read(harness: str, folder: Path) -> Records:
    """The records of the jobs in a sweep's folder; a record that is there twice has the value None."""
    found: Records = {}
    file, records = ("run.json", _of_wilds) if harness == WILDS else ("results.jsonl", _of_domainbed)
    for job in sorted(path.parent for path in (folder / "jobs").glob(f"*/{file}")):
        rows = list(records(job))
        found[job.name] = dict(rows)
        found[job.name] |= {key: None for key, count in Counter(key for key, _ in rows).items() if count > 1}
    return found


def _of_domainbed(job: Path) -> Iterator[tuple[tuple[Any, ...], Any]]:
    if (job / "done").exists():
        yield ("done",), True
    for line in (job / "results.jsonl").read_text().splitlines():
        record = json.loads(line)
        for name in ("step_time", "mem_gb"):
            record[name] = "measured"
        record["args"]["output_dir"] = ""
        yield (record["step"],), record


def _of_wilds(job: Path) -> Iterator[tuple[tuple[Any, ...], Any]]:
    record = json.loads((job / "run.json").read_text())
    yield ("run.json",), {name: record[name] for name in ("finished", "epochs", "selected_epoch", "results")}
    for table in sorted(job.glob("*_*.csv")):
        if table.name.endswith("_pred.csv"):
            yield (table.name,), table.read_text()
            continue
        with open(table, newline="") as file:
            for row in csv.DictReader(file):
                yield (table.name, row["epoch"], row.get("batch")), row


def compare(expected: Records, found: Records) -> dict[str, list[str]]:
    """The names of the jobs that are lost, doubled, and different from what is expected."""
    doubled = [job for job, records in found.items() if None in records.values()]
    lost = [job for job, records in expected.items() if not records.keys() <= found.get(job, {}).keys()]
    others = set(expected) | set(found)
    different = [job for job in others if found.get(job) != expected.get(job)]
    return {
        "lost": lost,
        "doubled": doubled,
        "different": sorted(job for job in different if job not in {*lost, *doubled}),
    }


def family(pid: int) -> dict[int, str]:
    """The processes below one, with their commands; none that has ended."""
    children: dict[int, list[int]] = {}
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError, IndexError):  # it has ended
            state, parent = (place / "stat").read_text().rpartition(") ")[2].split()[:2]
            if state not in "ZX":
                children.setdefault(int(parent), []).append(int(place.name))
    found, waiting = [], [pid]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return {pid: command for pid in found if (command := _command(pid))}


def role_of(command: str) -> str | None:
    """What a process of a sweep is; None for one that is not killed by itself, such as Ray's head."""
    if _is_agent(command):
        return "machine"  # whose raylet ends with it
    if command.startswith("ray::") or "cim_dg.launchers.worker" in command:
        return "worker"
    if "domainbed.scripts.train" in command or "wilds train" in command:
        return "job"
    if "domainbed.scripts.sweep" in command:
        return "launcher"
    return "machine" if "/raylet " in command else None


def _is_agent(command: str) -> bool:
    """Whether a process is an agent of Ray's own: it runs no job, and looks now and then whether it is needed."""
    return command.startswith("ray::") and command.split(maxsplit=1)[0].endswith("Agent")


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


def _born(pid: int) -> str | None:
    """When a live process was started, which tells it from a later one of the same number."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]


def markdown(counts: Mapping[str, Mapping[str, int]]) -> str:
    """The table of what was counted."""
    lines = [f"| | {' | '.join(COLUMNS)} |", "|" + "---|" * (1 + len(COLUMNS))]
    total: Counter[str] = Counter()
    for name, counted in counts.items():
        total.update(counted)
        lines.append(f"| {name} | {' | '.join(str(counted.get(column, 0)) for column in COLUMNS)} |")
    return "\n".join([*lines, f"| all | {' | '.join(str(total[column]) for column in COLUMNS)} |"])


def count_bad_inputs(seed: int, count: int, campaign: Campaign) -> None:
    """Run bad inputs, and count what becomes of them in the campaign."""
    import bad_inputs

    bad_inputs.SECONDS = 120  # the machine may be busy
    table = bad_inputs.run_bad_inputs(seed, count)
    counted = Counter(tried=len(table))
    for row in bad_inputs.bad(table):
        counted[{"traceback": "tracebacks", "hang": "hangs"}.get(row.outcome, "different")] += 1
        campaign.problems.append(str(row))
    campaign.counts["bad inputs"] = counted


def main() -> int:
    """Run the campaign that the command line asks for; 0 if nothing but `tried` was counted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kills", type=int, default=100, help="in all, shared by the cases")
    parser.add_argument("--inputs", type=int, default=2000)
    parser.add_argument("--harness", nargs="+", choices=(STANDIN, WILDS, REAL), help="only these")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="chaos") as folder:
        campaign = Campaign(Path(folder), arguments.seed)
        chosen = [case for case in cases() if arguments.harness is None or case.harness in arguments.harness]
        for number, case in enumerate(chosen):
            share = arguments.kills // len(chosen) + (number < arguments.kills % len(chosen))
            if share:
                print(f"{case}: {dict(campaign.run(case, share))}", file=sys.stderr, flush=True)
        if arguments.inputs:
            count_bad_inputs(arguments.seed, arguments.inputs, campaign)
    print(markdown(campaign.counts))
    for problem in campaign.problems:
        print(problem, file=sys.stderr)
    return 1 if campaign.problems else 0


if __name__ == "__main__":
    sys.exit(main())
