"""`cim-dg new method`: writes a package with a new method, which every harness knows once it is installed."""

from __future__ import annotations

import argparse
import importlib.util
import keyword
import os
import re
import shutil
import tempfile
from pathlib import Path
from string import Template
from typing import Any

from cim_dg.errors import UserError

TEMPLATES = Path(__file__).with_name("templates")
FILES = {
    "pyproject.toml": "pyproject.toml",
    "{module}/__init__.py": "method.py",
    "{module}/{name}.yaml": "hparams.yaml",
    "test_{module}.py": "test_method.py",
}
"""The files: paths with placeholders for the method's name and module -> names of templates."""


def add_parser(subparsers: Any) -> None:
    """Add `new method` to the command line."""
    parser = subparsers.add_parser("new", help="start a package with a method of your own")
    kinds = parser.add_subparsers(title="what to start", metavar="KIND", required=True)
    method = kinds.add_parser(
        "method",
        help="a method for DomainBed and WILDS",
        description="Write a package with a method: its class, hyper-parameters, test and pyproject.toml. It works as "
        "it is; replace its objective by yours.",
    )
    method.add_argument("name", metavar="NAME", help="the value of --algorithm, for example ConfidencePenalty")
    method.add_argument("--output", metavar="DIR", type=Path, required=True, help="a new or an empty folder")
    method.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Write the package and print the next steps; returns 0."""
    files = method_files(arguments.name)
    write_folder(arguments.output, files)
    print(f"{arguments.output} has {', '.join(files)}. Next, in that folder:")
    print("  pip install .")
    print("  python -m pytest")
    print(f"  python -m domainbed.scripts.train --algorithm {arguments.name} --dataset NuisanceDigits --test_envs 2 \\")
    print(f"      --data_dir none --output_dir runs/{module_name(arguments.name)}")
    return 0


def method_files(name: str) -> dict[str, str]:
    """The files of a package for the method `name`: relative path -> text.

    Raises:
        UserError: the name is not an identifier, or a method or a package of that name exists.
    """
    module = module_name(name)
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name) or keyword.iskeyword(name) or keyword.iskeyword(module):
        raise UserError(
            f"NAME is {name!r}; accepted is a name of a Python class: letters, digits and _, starting with a letter"
        )
    existing = {known.casefold(): known for known in _known_methods()}
    if name.casefold() in existing:
        raise UserError(f"NAME is {name!r}, and there is a method {existing[name.casefold()]}; choose another name")
    spec = importlib.util.find_spec(module)
    # A folder without Python files, such as an output folder in the working directory, is not a package.
    if spec is not None and spec.origin is not None:
        raise UserError(f"NAME is {name!r}, and there is a package {module} ({spec.origin}); choose another name")
    values = {"name": name, "module": module, "project": module.replace("_", "-").strip("-")}
    return {
        path.format(**values): Template((TEMPLATES / f"{template}.tmpl").read_text(encoding="utf-8")).substitute(values)
        for path, template in FILES.items()
    }


def module_name(name: str) -> str:
    """The package of a method: ConfidencePenalty -> confidence_penalty."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def write_folder(folder: Path, files: dict[str, str]) -> None:
    """Write text files, by relative path, into a new folder: all of them, or none if one cannot be written.

    Raises:
        UserError: the folder exists and is not empty, is the working directory, or cannot be written.
    """
    target = folder.absolute()
    try:
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise UserError(f"--output is {folder}, which exists; accepted is a new or an empty folder")
        if target.exists() and target.samefile(Path.cwd()):
            raise UserError(f"--output is {folder}, the working directory; accepted is another new or empty folder")
        target.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
        try:
            package = staging / target.name  # a subfolder, because mkdtemp creates a private folder
            package.mkdir()
            for path, text in files.items():
                (package / path).parent.mkdir(exist_ok=True)
                (package / path).write_text(text, encoding="utf-8")
            if target.exists():
                target.rmdir()
            os.rename(package, target)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    except OSError as error:
        raise UserError(f"--output is {folder}, which cannot be written: {error.strerror or error}") from None


def _known_methods() -> set[str]:
    """The registered methods, and the algorithms of the DomainBed that is found, which would take precedence."""
    from cim_dg.algorithms import methods
    from cim_dg.domainbed.plugin import upstream_algorithms

    try:
        return {*methods(), *upstream_algorithms()}
    except ImportError:  # a dependency of the clone is missing
        return set(methods())
