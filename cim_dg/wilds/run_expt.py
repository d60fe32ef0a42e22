"""`cim-dg wilds run-expt PATH -- ...`: WILDS' run_expt.py with our methods, with or without autoload."""

from __future__ import annotations

import argparse
import importlib.util
import runpy
import sys
from pathlib import Path
from typing import Any

from cim_dg import autoload
from cim_dg.errors import UserError


def add_parser(subparsers: Any) -> None:
    """Add the command `run-expt`."""
    parser = subparsers.add_parser(
        "run-expt", help="run WILDS' own run_expt.py with our methods in it", allow_abbrev=False
    )
    parser.add_argument("path", metavar="PATH", help="run_expt.py, its folder, or a clone of p-lambda/wilds")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="-- ARGUMENTS", help="for run_expt.py")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the script in this process, as `python run_expt.py ...` would."""
    script = find_script(arguments.path)
    for package in ("wilds", "transformers"):
        if importlib.util.find_spec(package) is None:
            raise UserError(f"run_expt.py needs the package {package}: pip install {package}")
    passed = arguments.arguments
    sys.argv = [str(script), *(passed[1:] if passed[:1] == ["--"] else passed)]
    # WILDS' folder `algorithms` is not a package. A package of that name on the path would hide it.
    elsewhere = [entry for entry in sys.path if not (Path(entry) / "algorithms" / "__init__.py").exists()]
    sys.path[:] = [str(script.parent), *elsewhere]
    autoload.install()
    runpy.run_path(str(script), run_name="__main__")
    return 0


def find_script(path: str) -> Path:
    """The run_expt.py at `path`.

    Raises:
        UserError: there is none.
    """
    for candidate in (Path(path), Path(path) / "run_expt.py", Path(path) / "examples" / "run_expt.py"):
        if candidate.name == "run_expt.py" and candidate.is_file():
            return candidate.resolve()
    raise UserError(f"there is no run_expt.py at {path}; give the script, its folder, or a clone of p-lambda/wilds")
