"""The inputs of a recipe: folders and files, which it searches by name."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

DEEPEST = 5
IMAGES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""File name endings of images in torchvision's ImageFolder, which DomainBed uses."""


def is_image(name: str) -> bool:
    """Whether a file of this name counts as an image."""
    return name.lower().endswith(IMAGES) and not name.startswith("._")


def plain(name: str) -> str:
    """A name without case, spaces, '-' and '_', so that 'Real World' is 'real_world'."""
    return "".join(letter for letter in name.lower() if letter not in " _-")


class Inputs:
    """The paths that a recipe may use.

    Args:
        paths: folders and files; folders are searched to a depth of `DEEPEST`.
        movable: files below this folder may be moved. All others are the user's and are copied.
    """

    def __init__(self, paths: Sequence[Path], movable: Path) -> None:
        self.paths = [path.absolute() for path in paths]
        self.movable = movable.absolute()
        self.notes: list[str] = []

    @cached_property
    def folders(self) -> list[Path]:
        """All folders, the shallowest first, each level by name."""
        level = sorted(path for path in self.paths if path.is_dir())
        all_folders = list(level)
        for _ in range(DEEPEST):
            level = [below for folder in level for below in subfolders(folder)]
            all_folders += level
        return all_folders

    def files(self, suffix: str) -> list[Path]:
        """The files whose names end in `suffix`, those of `paths` first."""
        given_files = [path for path in self.paths if path.is_file() and path.name.endswith(suffix)]
        return given_files + [
            folder / entry.name
            for folder in self.folders
            for entry in sorted(os.scandir(folder), key=lambda file: file.name)
            if entry.name.endswith(suffix) and entry.is_file()
        ]

    def file(self, *names: str) -> Path | None:
        """The first file with one of these names; those of `paths` first."""
        for path in self.paths:
            if path.is_file() and path.name in names:
                return path
        return next((folder / name for folder in self.folders for name in names if (folder / name).is_file()), None)

    def folder(self, *names: str) -> Path | None:
        """The first folder with one of these names, such as 'forest/broadleaf'."""
        for folder in self.folders:
            for name in names:
                if folder.name == name or (folder / name).is_dir():
                    return folder if folder.name == name else folder / name
        return None

    def transfer(self, source: Path, target: Path) -> None:
        """Move a file or folder to `target`; copy it if it is the user's."""
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_relative_to(self.movable):
            source.rename(target)
        elif source.is_dir():
            shutil.copytree(source, target, copy_function=shutil.copyfile)
        else:
            shutil.copyfile(source, target)

    def __str__(self) -> str:
        return ", ".join(map(str, self.paths))


def subfolders(folder: Path) -> list[Path]:
    """The folders in a folder, by name, without hidden ones and those of archivers."""
    return sorted(
        Path(entry.path)
        for entry in os.scandir(folder)
        if entry.is_dir() and not entry.name.startswith((".", "__MACOSX"))
    )


def images(folder: Path) -> Iterator[str]:
    """The names of the images in a folder, in order."""
    yield from sorted(entry.name for entry in os.scandir(folder) if is_image(entry.name) and entry.is_file())


def by_name(name: str, aliases: Iterable[str]) -> frozenset[str]:
    """A name and its aliases in the form of `plain`."""
    return frozenset({plain(name), *map(plain, aliases)})
