"""Unpacks untrusted archives: nothing outside the folder, no links, and no more than a given size."""

from __future__ import annotations

import lzma
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from tqdm import tqdm

from cim_dg.errors import RunError, UserError

CHUNK = 2**20
MOST_ENTRIES = 5_000_000
_DAMAGED = (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, lzma.LZMAError, NotImplementedError)


@dataclass(frozen=True)
class Entry:
    """One member of an archive: `link` is the target of a link, `content` opens a regular file."""

    name: str
    size: int
    is_folder: bool = False
    link: str | None = None
    special: bool = False
    content: Any = None


def is_archive(path: Path) -> bool:
    """Whether a file is a zip or a (compressed) tar."""
    return path.is_file() and (zipfile.is_zipfile(path) or tarfile.is_tarfile(path))


def unpack(archive: Path, folder: Path, limit: int | None = None) -> list[str]:
    """Unpack the regular files of `archive` into the new or empty `folder`; returns notes on what was left out.

    Links that stay inside are skipped, because no dataset needs them. All others are refused.

    Args:
        archive: a zip, or a tar, compressed or not.
        folder: its content may be lost.
        limit: the maximum number of unpacked bytes.

    Raises:
        UserError: it is not an archive, is damaged, would write outside the folder, or exceeds the limit.
        RunError: the disk is full.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written, links, count = 0, 0, 0
    try:
        with _entries(archive) as (entries, declared):
            _check_space(archive, folder, declared, limit)
            with tqdm(
                desc=f"unpacking {archive.name}", total=declared, unit="B", unit_scale=True, leave=False, disable=None
            ) as bar:
                for entry in entries:
                    count += 1
                    if count > MOST_ENTRIES:
                        raise UserError(f"{archive} has more than {MOST_ENTRIES:,} entries; it is not unpacked")
                    target = _inside(archive, folder, entry.name)
                    if entry.special:
                        raise UserError(f"{archive}: {entry.name} is a device or a pipe; it is not unpacked")
                    if entry.link is not None:
                        _inside(archive, folder, entry.link)
                        links += 1
                    elif entry.is_folder:
                        target.mkdir(parents=True, exist_ok=True)
                    else:
                        target.parent.mkdir(parents=True, exist_ok=True)
                        with entry.content() as source, open(target, "wb") as file:
                            written = _copy(source, file, written, limit, archive, bar)
    except _DAMAGED as error:
        raise UserError(f"{archive} is damaged: {' '.join(str(error).split()) or type(error).__name__}") from None
    except OSError as error:
        raise RunError(f"{archive} cannot be unpacked into {folder}: {error.strerror or error}") from None
    return [f"{archive.name}: {links} links were left out"] if links else []


def _copy(source: IO[bytes], file: IO[bytes], written: int, limit: int | None, archive: Path, bar: Any) -> int:
    """Copy the actual content, whatever size the archive states; returns the bytes written so far."""
    while chunk := source.read(CHUNK):
        written += len(chunk)
        if limit is not None and written > limit:
            raise UserError(
                f"{archive} unpacks to more than the {limit:,} bytes that this dataset may have; it is not what it "
                "should be"
            )
        file.write(chunk)
        bar.update(len(chunk))
    return written


def _check_space(archive: Path, folder: Path, declared: int | None, limit: int | None) -> None:
    if declared is None:
        return
    if limit is not None and declared > limit:
        raise UserError(
            f"{archive} unpacks to {declared:,} bytes, more than the {limit:,} that this dataset may have; it is not "
            "what it should be"
        )
    free = shutil.disk_usage(folder).free
    if declared > free:
        raise UserError(f"{archive} unpacks to {declared:,} bytes, and {folder} has {free:,} free")


def _inside(archive: Path, folder: Path, name: str) -> Path:
    """The target of an entry, if it is inside the folder."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in (path.parts[0] if path.parts else ""):
        raise UserError(f"{archive} is not unpacked: its entry {name!r} leads out of the folder")
    return folder.joinpath(*path.parts)


@contextmanager
def _entries(archive: Path) -> Iterator[tuple[Iterator[Entry], int | None]]:
    """The entries in order, and the sum of their sizes if it is known without unpacking."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as packed:
            yield _of_zip(packed), sum(info.file_size for info in packed.infolist())
    elif tarfile.is_tarfile(archive):
        with tarfile.open(archive) as packed_tar:
            yield _of_tar(packed_tar), None
    else:
        raise UserError(f"{archive} is neither a zip nor a tar archive, or a damaged one")


def _of_zip(packed: zipfile.ZipFile) -> Iterator[Entry]:
    for info in packed.infolist():
        if info.flag_bits & 0x1:
            raise UserError(f"{packed.filename} is encrypted; it is not unpacked")
        if (info.external_attr >> 16) & 0o170000 == 0o120000:
            with packed.open(info) as content:  # at most a path's length: a link may state any size
                target = content.read(4096).decode("utf-8", "replace")
            yield Entry(info.filename, 0, link=_link_target(info.filename, target))
        else:
            yield Entry(info.filename, info.file_size, info.is_dir(), content=lambda info=info: packed.open(info))


def _of_tar(packed: tarfile.TarFile) -> Iterator[Entry]:
    for member in packed:
        if member.issym():
            yield Entry(member.name, 0, link=_link_target(member.name, member.linkname))
        elif member.islnk():
            yield Entry(member.name, 0, link=member.linkname)
        elif member.isdir() or member.isreg():
            content = (lambda member=member: packed.extractfile(member)) if member.isreg() else None
            yield Entry(member.name, member.size, member.isdir(), content=content)
        else:
            yield Entry(member.name, 0, special=True)


def _link_target(name: str, target: str) -> str:
    """The target of a symbolic link, relative to the archive's top; it keeps '..' if that is outside."""
    if target.startswith("/"):
        return target
    parts: list[str] = []
    for part in [*PurePosixPath(name).parent.parts, *PurePosixPath(target).parts]:
        if part == ".." and parts and parts[-1] != "..":
            parts.pop()
        else:
            parts.append(part)
    return "/".join(parts) or "."
