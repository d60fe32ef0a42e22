"""Makes the table of forks in docs/harnesses.md, by running each clone that is given.

    python docs/forks.py [REPOSITORY=PATH[@COMMIT] ...]

Without arguments it takes the clones that SWAD_ROOT, MIRO_ROOT, DIWA_ROOT, SUBPOPBENCH_ROOT and DOMAINBED_ROOT name,
the last at its HEAD and at a commit of each year. Nothing of a given clone changes: everything runs in clones of them.
Rows of other repositories and commits stay. Each check is a few steps on a CPU with random weights, under
tests/helpers/without_gpu.
"""

from __future__ import annotations

import csv
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "helpers"))
from fork_clones import DIGITS, METHODS, OLD_COMMITS, Clone, records, swad_flags, train_flags
from standin_samples import write_mnist

PAGE = Path(__file__).with_name("harnesses.md")
START, END = "<!-- made by docs/forks.py -->", "<!-- end -->"
COLUMNS = ("repository", "commit", "train", "reload", "sweep, collect", "average", "its ERM", "what to know")
ROOTS = {
    "khanrc/swad": "SWAD_ROOT",
    "kakaobrain/miro": "MIRO_ROOT",
    "alexrame/diwa": "DIWA_ROOT",
    "YyzHarry/SubpopBench": "SUBPOPBENCH_ROOT",
    "facebookresearch/DomainBed": "DOMAINBED_ROOT",
}
NONE = "it has none"
GPUS = "supports GPUs alone"
NOTES = {
    "khanrc/swad": "needs sconf, prettytable, tensorboardX; its `--test_envs` fails for every algorithm",
    "kakaobrain/miro": "needs sconf, prettytable, tensorboardX, `git+https://github.com/openai/CLIP.git`",
    "alexrame/diwa": "with PyTorch 2.6 and later its averaging of ERM over random hyper-parameters needs "
    "`TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1`",
    "salesforce/ensemble-of-averages": f"`domainbed.EoA` makes ensembles of ERM_SMA and refuses ours; it {GPUS}",
    "YyzHarry/SubpopBench": "needs tensorboard-logger (with `PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION=python`) and "
    "netcal; images only; no two-stage method (CRT, DFR) on top of ours; `--resume` fails for every algorithm; with "
    "PyTorch 2.6 and later `--use_es` needs `TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1`",
}
"""What the runs cannot say."""


def main() -> None:
    """Run what is given, and put its rows into the page."""
    for repository, path, commit in given(sys.argv[1:]):
        with tempfile.TemporaryDirectory() as folder:
            clone = Clone.of(path, Path(folder, "clone"), commit)
            row = row_of(repository, clone, Path(folder))
        print(f"| {' | '.join(row)} |", flush=True)
        write(row)


def given(arguments: list[str]) -> Iterator[tuple[str, str, str | None]]:
    """Repository, path and commit of each clone to run."""
    for argument in arguments:
        repository, _, path = argument.partition("=")
        path, _, commit = path.partition("@")
        yield repository, path, commit or None
    for repository, variable in ROOTS.items() if not arguments else ():
        if path := os.environ.get(variable):
            commits = OLD_COMMITS.values() if variable == "DOMAINBED_ROOT" else ()
            yield from ((repository, path, commit) for commit in (None, *commits))


def row_of(repository: str, clone: Clone, folder: Path) -> tuple[str, ...]:
    """What works in a clone."""
    head, date = clone.git("log", "-1", "--format=%h %cs").split()
    missing = clone.missing()
    if missing:
        cells, why = ["not run"] * 5, [f"{', '.join(missing)} not installed"]
    elif (clone.root / "subpopbench").exists():
        cells, why = subpopbench(clone, folder)
    else:
        cells, why = swad(clone, folder) if clone.swad_family else domainbed(clone, folder)
    if status := clone.git("status", "--porcelain"):
        why.append(f"the clone has changed: {status}")
    files = [clone.root / name for name in ("train_all.py", "domainbed/scripts/train.py", "domainbed/lib/misc.py")]
    if any(".cuda()" in text or "assert torch.cuda" in text for text in (f.read_text() for f in files if f.exists())):
        why.append(GPUS)
    notes = [*why, *([NOTES[repository]] if repository in NOTES else [])]
    return (repository, f"{head} ({date})", *cells, "; ".join(notes) or "nothing")


Facts = list[dict[str, Any]]
Cells = tuple[list[str], list[str]]
"""The cells of a clone, and why what fails fails."""


def swad(clone: Clone, folder: Path) -> Cells:
    """A clone of SWAD's form."""
    facts = clone.facts(*(swad_flags(name, "NuisanceDigits", folder) for name in METHODS))
    write_mnist(folder)
    erm = swad_flags("ERM", "ColoredMNIST", folder)
    both = [clone.facts(erm, CIM_DG_AUTOLOAD=switch)[0] for switch in ("1", "0")]
    files = [clone.root / fact["folder"] / "results.jsonl" for fact in both if "folder" in fact]
    averaged = all(fact.get("averages") and 0 not in fact["mask_batches"] for fact in facts)
    return [*trained(facts), NONE, tick(averaged), same(files)], errors([*facts, *both])


def domainbed(clone: Clone, folder: Path) -> Cells:
    """A clone of DomainBed's form."""
    sweep, known = folder / "sweep", (clone.root / "domainbed/scripts/sweep.py").read_text()
    launch = "--datasets NuisanceDigits --algorithms CIM --n_hparams 1 --n_trials 1 --steps 2 --command_launcher inside"
    flags = [
        "launch",
        *launch.split(),
        "--data_dir",
        "data",
        "--output_dir",
        str(sweep),
        "--hparams",
        json.dumps(DIGITS),
    ]
    flags += [flag for flag in ("--single_test_envs", "--skip_confirmation") if flag in known]
    runs = [
        *(train_flags(name, folder / name) for name in ("ERM", *METHODS)),
        ["domainbed.scripts.sweep", *flags],
        ["domainbed.scripts.collect_results", "--input_dir", str(sweep)],
    ]
    averages = (clone.root / "domainbed/scripts/diwa.py").exists()
    if averages:
        member = ["--dataset", "NuisanceDigits", "--test_env", "2", "--output_dir", str(sweep)]
        runs.append(["domainbed.scripts.diwa", *member])
    facts = clone.facts(*runs)
    plain = clone.facts(train_flags("ERM", folder / "plain"), CIM_DG_AUTOLOAD="0")
    collected = any(line.startswith("CIM ") and "+/-" in line for line in facts[6].get("printed", "").splitlines())
    averaged = tick("test_acc" in facts[-1].get("printed", "")) if averages else NONE
    files = [folder / name / "results.jsonl" for name in ("ERM", "plain")]
    return [*trained(facts[1:5]), tick(collected), averaged, same(files)], errors([*facts, *plain])


def subpopbench(clone: Clone, folder: Path) -> Cells:
    """A clone of SubpopBench, on digits in the format of Waterbirds; tests/subpopbench has the rest."""
    from cim_dg.wilds.digits import write_digits

    digits = write_digits(folder / "digits")
    (folder / "waterbirds").mkdir()
    (folder / "waterbirds" / "waterbird_complete95_forest2water2").symlink_to(digits)
    with (digits / "metadata.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    few = {(row["split"], row["y"], row["place"], number % 8): row for number, row in enumerate(rows)}
    with (digits / "metadata.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(few.values())
    protobuf = {"PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "python"}
    clone.python("-m", "subpopbench.scripts.download", "waterbirds", "--data_path", str(folder), **protobuf)
    facts = []
    options = (
        f"--dataset Waterbirds --steps 2 --output_folder_name few --data_dir {folder} --output_dir {folder / 'out'}"
    )
    hparams = json.dumps({"resnet18": True, "pretrained": False, "batch_size": 4})
    for name in METHODS:
        flags = ["--algorithm", name, *options.split(), "--hparams", hparams]
        done = clone.python("-m", "subpopbench.train", *flags, **protobuf)
        last = done.stderr.splitlines()[-1:] if done.returncode else []
        facts.append({"run": flags, "algorithm": name} | ({"error": last[0]} if last else {}))
    tested = "by tests/subpopbench"
    return [trained(facts)[0], tested, tested, NONE, tested], errors(facts)


def trained(facts: Facts) -> list[str]:
    """Which methods train, and whether the checkpoints of all reload."""
    works = [fact["algorithm"] for fact in facts if "error" not in fact]
    return [tick(len(works) == len(facts), ", ".join(works)), tick(all(fact.get("reloads") for fact in facts))]


def same(files: list[Path]) -> str:
    """Whether the harness' own ERM has the same records with cim-dg and without."""
    if len(files) < 2 or not all(file.exists() for file in files):
        return "does not run"
    return "unchanged" if records(files[0]) == records(files[1]) else "CHANGED"


def errors(facts: Facts) -> list[str]:
    """Each error once."""
    found = dict.fromkeys(fact["error"] for fact in facts if "error" in fact)
    return [f"`{error[:160]}`".replace("|", "/") for error in found]


def tick(works: bool, partly: str = "") -> str:
    """A cell."""
    return "yes" if works else partly or "no"


def write(row: tuple[str, ...]) -> None:
    """Put a row into the page's table, in place of that of the same repository and commit."""
    before, rest = PAGE.read_text(encoding="utf-8").split(START)
    table, after = rest.split(END)
    kept = [tuple(line.strip("| ").split(" | ")) for line in table.strip().splitlines()[2:]]
    order = list(ROOTS)
    merged = {line[:2]: line for line in kept if len(line) == len(COLUMNS)} | {row[:2]: row}
    ordered = sorted(
        merged.values(), key=lambda line: (order.index(line[0]) if line[0] in order else 3.5, line[1][-11:])
    )
    lines = [COLUMNS, ["---"] * len(COLUMNS), *ordered]
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    PAGE.write_text(f"{before}{START}\n{text}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
