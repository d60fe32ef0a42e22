"""From a source to a dataset in its place: downloaded, unpacked, laid out, and moved there in one step.

Everything happens in DATA/.cim-dg-NAME. What was downloaded stays there until all is done, so that a command that was
killed, however it was, goes on when it is given again; the dataset itself is there only when it is whole.
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
    """Where a dataset is now, what it was made from, and notes on what is not as it could be."""

    folder: Path
    origin: str
    notes: list[str] = field(default_factory=list)


def download(dataset: Dataset, data_dir: Path) -> Got:
    """Have the dataset below `data_dir` from the first of its sources that works.

    Raises:
        RunError: none works; each is named with its reason.
        UserError: it has no source to download, or the disk has not enough room.
    """
    sources = [source for source in dataset.sources if source.downloads]
    if not sources:
        raise UserError(f"{dataset.name} cannot be downloaded: {by_hand(dataset)}")
    reasons = []
    with _Workplace(dataset, data_dir) as place:
        for source in sources:
            try:
                paths = [fetch(file, place.downloads, dataset.bytes_limit) for file in source.files]
                return place.finish(paths, _origin(source))
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


def take(dataset: Dataset, data_dir: Path, given: Sequence[str]) -> Got:
    """Have the dataset below `data_dir` from archives, folders, files or addresses of the user's, all of them together.

    Raises:
        UserError: a path is not there, or it is not what the dataset is made from.
        RunError: an address cannot be downloaded, or the disk is full.
    """
    for path in given:
        if not ADDRESS.match(path) and not Path(path).exists():
            raise UserError(
                f"--from {path}: there is no such file or folder, and it is no address (https://, hf:, pypi:)"
            )
    with _Workplace(dataset, data_dir) as place:
        paths = [
            fetch(_file(path), place.downloads, dataset.bytes_limit) if ADDRESS.match(path) else Path(path)
            for path in given
        ]
        return place.finish(paths, ", ".join(given))


def by_hand(dataset: Dataset) -> str:
    """What can be done by hand, in a sentence; empty if nothing is known."""
    ways = [source.note for source in dataset.sources if not source.downloads]
    if not ways:
        return ""
    return f"It can be made by `cim-dg data prepare {dataset.name} --from PATH...` from " + "; or from ".join(ways)


class _Workplace:
    """DATA/.cim-dg-NAME, claimed by this process."""

    def __init__(self, dataset: Dataset, data_dir: Path) -> None:
        self.dataset, self.data_dir = dataset, data_dir
        self.folder = data_dir / f".cim-dg-{dataset.name}"
        self.downloads, self.unpacked, self.new = (self.folder / name for name in ("downloads", "unpacked", "new"))

    def __enter__(self) -> _Workplace:
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
        """Unpack what is packed, lay it out, and move it to its place."""
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
        # Its folders stand in the folder of all data, and can come from different sources.
        for part in (backgrounds.TRAINING, *backgrounds.PARTS):
            if (self.new / part).is_dir() and not (self.data_dir / part).exists():
                (self.data_dir / part).parent.mkdir(parents=True, exist_ok=True)
                os.rename(self.new / part, self.data_dir / part)


def _origin(source: Source) -> str:
    return ", ".join(file.address for file in source.files)


def _file(address: str) -> File:
    name = address.split("?")[0].rstrip("/").rsplit("/", 1)[-1].rsplit(":", 1)[-1]
    return File(address=address, name=name or "download", checksum=None, size=None)
