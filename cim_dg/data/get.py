"""Installs a dataset from a source: download, unpack, lay out, and move it into place in one step.

All of it happens in DATA/.cim-dg-NAME. Downloads stay there until the end, so that a killed command resumes when it is
run again. The dataset itself appears only when it is complete.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cim_dg.data import fingerprint, present
from cim_dg.data.archives import is_archive, unpack
from cim_dg.data.catalogue import ADDRESS, Dataset, File, Source
from cim_dg.data.download import fetch
from cim_dg.data.recipes import backgrounds, lay_out
from cim_dg.errors import RunError, UserError
from cim_dg.runtime.locks import claim


@dataclass(frozen=True)
class Got:
    """An installed dataset: its folder, its origin, and notes on imperfections."""

    folder: Path
    origin: str
    notes: list[str] = field(default_factory=list)


def download(dataset: Dataset, data_dir: Path) -> Got:
    """Install the dataset below `data_dir` from the first of its sources that works.

    Raises:
        RunError: none works. The message names each with its reason.
        UserError: it has no source to download, or the disk is too full.
    """
    sources = [source for source in dataset.sources if source.downloads]
    if not sources:
        raise UserError(f"{dataset.name} cannot be downloaded: {by_hand(dataset)}")
    reasons = []
    with _Workspace(dataset, data_dir) as workspace:
        for source in sources:
            try:
                paths = [fetch(file, workspace.downloads, dataset.bytes_limit) for file in source.files]
                return workspace.finish(paths, _origin(source))
            except (RunError, UserError) as error:
                if isinstance(error, UserError) and " free" in str(error):  # no other source would fit either
                    raise
                reasons.append(str(error))
                print(f"{dataset.name}: {error}", file=sys.stderr)
    raise RunError(
        f"{dataset.name} cannot be had from any of its {len(sources)} sources; a copy of your own is taken by "
        f"`{present.command(dataset, data_dir)} --from PATH_OR_ADDRESS`"
        + (f". {by_hand(dataset)}" if by_hand(dataset) else "")
    )


def take(dataset: Dataset, data_dir: Path, inputs: Sequence[str]) -> Got:
    """Install the dataset below `data_dir` from the user's archives, folders, files or addresses, all together.

    Raises:
        UserError: a path does not exist, or the dataset cannot be made from them.
        RunError: an address cannot be downloaded, or the disk is full.
    """
    for path in inputs:
        if not ADDRESS.match(path) and not Path(path).exists():
            raise UserError(
                f"--from {path}: there is no such file or folder, and it is no address (https://, hf:, pypi:)"
            )
    with _Workspace(dataset, data_dir) as workspace:
        paths = [
            fetch(_file(path), workspace.downloads, dataset.bytes_limit) if ADDRESS.match(path) else Path(path)
            for path in inputs
        ]
        return workspace.finish(paths, ", ".join(inputs))


def by_hand(dataset: Dataset) -> str:
    """A sentence on how to get the dataset by hand; empty if no way is known."""
    ways = [source.note for source in dataset.sources if not source.downloads]
    if not ways:
        return ""
    return f"It can be made by `cim-dg data prepare {dataset.name} --from PATH...` from " + "; or from ".join(ways)


class _Workspace:
    """DATA/.cim-dg-NAME, claimed by this process."""

    def __init__(self, dataset: Dataset, data_dir: Path) -> None:
        self.dataset, self.data_dir = dataset, data_dir
        self.folder = data_dir / f".cim-dg-{dataset.name}"
        self.downloads, self.unpacked, self.new = (self.folder / name for name in ("downloads", "unpacked", "new"))

    def __enter__(self) -> _Workspace:
        try:
            self.downloads.mkdir(parents=True, exist_ok=True)
            self._claim = claim(self.folder)
        except OSError as error:
            raise UserError(f"--data_dir {self.data_dir} cannot be written: {error.strerror}") from None
        if self._claim is None:
            raise UserError(f"another process is getting {self.dataset.name} in {self.data_dir}")
        self._clear()
        return self

    def __exit__(self, *error: object) -> None:
        assert self._claim is not None
        self._clear()
        self._claim.__exit__(None, None, None)

    def _clear(self) -> None:
        for folder in (self.unpacked, self.new):
            shutil.rmtree(folder, ignore_errors=True)

    def finish(self, paths: Sequence[Path], origin: str) -> Got:
        """Unpack archives, lay out the dataset, and move it into place."""
        notes: list[str] = []
        opened = []
        try:
            for number, path in enumerate(paths):
                if is_archive(path) and path.suffix != ".whl":
                    folder = self.unpacked / str(number) / path.name.split(".")[0]
                    notes += unpack(path, folder, self.dataset.bytes_limit)
                    opened.append(folder)
                else:
                    opened.append(path)
            notes += lay_out(self.dataset, opened, self.unpacked, self.new)
            self._move()
        except OSError as error:
            raise RunError(
                f"{self.dataset.name} cannot be written to {self.data_dir}: {error.strerror or error}"
            ) from None
        shutil.rmtree(self.downloads, ignore_errors=True)
        fingerprint.write(self.dataset, self.data_dir, origin=origin, notes=notes)
        return Got(self.dataset.path(self.data_dir), origin, notes)

    def _move(self) -> None:
        if self.dataset.layout != "backgrounds":
            os.rename(self.new, self.dataset.path(self.data_dir))
            return
        # Its folders are directly in the folder of all data, and can come from different sources.
        for part in (backgrounds.TRAINING, *backgrounds.PARTS):
            if (self.new / part).is_dir() and not (self.data_dir / part).exists():
                (self.data_dir / part).parent.mkdir(parents=True, exist_ok=True)
                os.rename(self.new / part, self.data_dir / part)


def _origin(source: Source) -> str:
    return ", ".join(file.address for file in source.files)


def _file(address: str) -> File:
    name = address.split("?")[0].rstrip("/").rsplit("/", 1)[-1].rsplit(":", 1)[-1]
    return File(address=address, name=name or "download", checksum=None, size=None)
