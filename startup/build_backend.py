"""The build backend: setuptools, plus two files in each wheel, including editable ones.

Python reads `cim_dg_autoload.pth`, and from 3.15 on `cim_dg_autoload.start` (PEP 829), from the root of site-packages.
setuptools has no documented way to put a file there that also works for editable wheels, so the files are added to the
finished wheel. This relies only on the build interface (PEP 517 and 660) and the wheel format.
"""

from __future__ import annotations

import base64
import hashlib
import os
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

from setuptools import build_meta
from setuptools.build_meta import *  # noqa: F403  # the other functions of the interface are setuptools' own

FILES = tuple(Path(__file__).with_name(f"cim_dg_autoload.{suffix}") for suffix in ("pth", "start"))


def build_wheel(directory, config_settings=None, metadata_directory=None):
    """Build a wheel in `directory`; returns its file name (PEP 517)."""
    name = build_meta.build_wheel(directory, config_settings, metadata_directory)
    add_files(Path(directory, name))
    return name


def build_editable(directory, config_settings=None, metadata_directory=None):
    """Build an editable wheel in `directory`; returns its file name (PEP 660)."""
    name = build_meta.build_editable(directory, config_settings, metadata_directory)
    add_files(Path(directory, name))
    return name


def add_files(wheel: Path) -> None:
    """Add `FILES` to the root of `wheel` and to its RECORD, so that they are uninstalled too."""
    extended = wheel.with_suffix(".tmp")
    with ZipFile(wheel) as source, ZipFile(extended, "w", ZIP_DEFLATED) as target:
        for entry in source.infolist():
            content = source.read(entry)
            if entry.filename.endswith(".dist-info/RECORD"):
                record, lines = entry, content.decode()
            else:
                target.writestr(entry, content)
        for file in FILES:
            content = file.read_bytes()
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
            target.writestr(file.name, content)
            lines += f"{file.name},sha256={digest},{len(content)}\n"
        target.writestr(record, lines)
    os.replace(extended, wheel)
