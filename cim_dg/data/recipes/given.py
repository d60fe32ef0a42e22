"""What a recipe is given: folders and files, in which it looks for what it needs by name."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

DEEPEST = 5
IMAGES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""The endings that torchvision's ImageFolder takes for images, which is what DomainBed reads."""


def is_image(name: str) -> bool:
    """Whether a file of this name counts as an image."""
    return name.lower().endswith(IMAGES) and not name.startswith("._")


def plain(name: str) -> str:
    """A name without case, spaces, '-' and '_', so that 'Real World' is 'real_world'."""
    return "".join(letter for letter in name.lower() if letter not in " _-")


class Given:
    """Paths that a recipe may take things from.

    Args:
        paths: folders and files; folders are searched to a depth of `DEEPEST`.
        ours: below this folder files may be moved; elsewhere they are the user's and are copied.
    """

    def __init__(self, paths: Sequence[Path], ours: Path) -> None:
        self.paths = [path.absolute() for path in paths]
        self.ours = ours.absolute()
        self.notes: list[str] = []

    @cached_property
    def folders(self) -> list[Path]:
        """All folders, the shallowest first, each level by name."""
        level = sorted(path for path in self.paths if path.is_dir())
        everything = list(level)
        for _ in range(DEEPEST):
            level = [below for folder in level for below in subfolders(folder)]
            everything += level
        return everything

    def files(self, suffix: str) -> list[Path]:
        """The files with that ending, the given ones first."""
        own = [path for path in self.paths if path.is_file() and path.name.endswith(suffix)]
        return own + [
            folder / entry.name
            for folder in self.folders
            for entry in sorted(os.scandir(folder), key=lambda one: one.name)
            if entry.name.endswith(suffix) and entry.is_file()
        ]

    def file(self, *names: str) -> Path | None:
        """The first file with one of these names; a given file counts whatever folder it lies in."""
        for path in self.paths:
            if path.is_file() and path.name in names:
                return path
        return next((folder / name for folder in self.folders for name in names if (folder / name).is_file()), None)

    def folder(self, *names: str) -> Path | None:
        """The first folder that has one of these names; 'forest/broadleaf' is a folder in a folder."""
        for folder in self.folders:
            for name in names:
                if folder.name == name or (folder / name).is_dir():
                    return folder if folder.name == name else folder / name
        return None

    def place(self, source: Path, target: Path) -> None:
        """Have a file or folder at `target`: moved if it is ours, copied if it is the user's."""
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_relative_to(self.ours):
            source.rename(target)
        elif source.is_dir():
            shutil.copytree(source, target, copy_function=shutil.copyfile)
        else:
            shutil.copyfile(source, target)

    def __str__(self) -> str:
        return ", ".join(map(str, self.paths))


def subfolders(folder: Path) -> list[Path]:
    """The folders in a folder, by name; hidden ones and those of archivers are left out."""
    return sorted(
        Path(entry.path)
        for entry in os.scandir(folder)
        if entry.is_dir() and not entry.name.startswith((".", "__MACOSX"))
    )


def images(folder: Path) -> Iterator[str]:
    """The names of the images in a folder, in order."""
    yield from sorted(entry.name for entry in os.scandir(folder) if is_image(entry.name) and entry.is_file())


def by_name(wanted: str, others: Iterable[str]) -> frozenset[str]:
    """All ways to write a name, for comparison with `plain`."""
    return frozenset({plain(wanted), *map(plain, others)})
