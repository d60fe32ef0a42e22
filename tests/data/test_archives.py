"""Archives that want to write elsewhere, to follow links out, or to fill the disk."""

from __future__ import annotations

import io
import os
import shutil
import stat
import tarfile
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from cim_dg.data.archives import is_archive, unpack
from cim_dg.errors import RunError, UserError


def tar(path: Path, *members: tuple[str, bytes | tarfile.TarInfo]) -> Path:
    """A tar.gz of files, or of members as they are."""
    with tarfile.open(path, "w:gz") as packed:
        for name, content in members:
            if isinstance(content, tarfile.TarInfo):
                content.name = name
                packed.addfile(content)
            else:
                info = tarfile.TarInfo(name)
                info.size = len(content)
                packed.addfile(info, io.BytesIO(content))
    return path


def link(target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo()
    info.type, info.linkname = kind, target
    return info


def zip_link(path: Path, name: str, target: str) -> Path:
    with zipfile.ZipFile(path, "w") as packed:
        info = zipfile.ZipInfo(name)
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        packed.writestr(info, target)
    return path


def outside(tmp_path: Path) -> set[str]:
    """All that is there, but for the archive and what was unpacked."""
    names = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")}
    return {name for name in names if not name.startswith(("archive", "out"))}


@pytest.mark.parametrize(
    "name", ["../evil.txt", "a/../../evil.txt", "/tmp/cim-dg-evil.txt", "..\\evil.txt", "C:\\evil.txt"]
)
@pytest.mark.parametrize("form", ["tar", "zip"])
def test_nothing_is_written_outside(name: str, form: str, tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    if form == "tar":
        tar(archive, ("fine.txt", b"fine"), (name, b"evil"))
    else:
        with zipfile.ZipFile(archive, "w") as packed:
            packed.writestr("fine.txt", "fine")
            packed.writestr(zipfile.ZipInfo(name), "evil")
    with pytest.raises(UserError, match="leads out of the folder"):
        unpack(archive, tmp_path / "out" / "deep")
    assert outside(tmp_path) == set()
    assert not Path("/tmp/cim-dg-evil.txt").exists()


@pytest.mark.parametrize("target", ["/etc/passwd", "../secret", "a/../../secret", "../../secret"])
@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_links_out_of_the_folder_are_refused(target: str, kind: bytes, tmp_path: Path) -> None:
    archive = tar(tmp_path / "archive.tar.gz", ("way", link(target, kind)), ("way/in.txt", b"evil"))
    with pytest.raises(UserError, match="leads out of the folder"):
        unpack(archive, tmp_path / "out")
    assert outside(tmp_path) == set()


def test_links_out_of_the_folder_are_refused_in_a_zip(tmp_path: Path) -> None:
    archive = zip_link(tmp_path / "archive.zip", "a/way", "../../secret")
    with pytest.raises(UserError, match="leads out of the folder"):
        unpack(archive, tmp_path / "out")


def test_links_inside_are_left_out_and_told(tmp_path: Path) -> None:
    archive = tar(
        tmp_path / "archive.tar.gz", ("a/1.txt", b"one"), ("a/2.txt", link("1.txt")), ("b/3.txt", link("../a/1.txt"))
    )
    notes = unpack(archive, tmp_path / "out")
    assert notes == ["archive.tar.gz: 2 links were left out"]
    assert [path.name for path in (tmp_path / "out").rglob("*.txt")] == ["1.txt"]


@pytest.mark.parametrize("kind", [tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE])
def test_devices_and_pipes_are_refused(kind: bytes, tmp_path: Path) -> None:
    info = tarfile.TarInfo()
    info.type = kind
    with pytest.raises(UserError, match="a device or a pipe"):
        unpack(tar(tmp_path / "archive.tar", ("pipe", info)), tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("form", ["tar", "zip"])
def test_a_bomb_stops_at_the_stated_size(form: str, tmp_path: Path) -> None:
    archive, zeros = tmp_path / "archive", bytes(8 * 2**20)
    if form == "tar":
        tar(archive, *((f"{number}.jpg", zeros) for number in range(4)))
    else:
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
            for number in range(4):
                packed.writestr(f"{number}.jpg", zeros)
    assert archive.stat().st_size < 2**17
    with pytest.raises(UserError, match="more than the 10,000,000"):
        unpack(archive, tmp_path / "out", limit=10_000_000)
    written = sum(path.stat().st_size for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert written <= 10_000_000


def test_a_zip_that_lies_about_its_sizes_stops_too(tmp_path: Path) -> None:
    archive = tmp_path / "archive.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("a.jpg", bytes(4 * 2**20))
    content = archive.read_bytes()
    # The size stands in the entry's own head and in the directory.
    archive.write_bytes(content.replace((4 * 2**20).to_bytes(4, "little"), (10).to_bytes(4, "little")))
    with pytest.raises(UserError):
        unpack(archive, tmp_path / "out", limit=1_000_000)
    written = sum(path.stat().st_size for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert written <= 1_000_000


def test_an_archive_larger_than_the_disk_is_not_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = tmp_path / "archive.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("a.jpg", bytes(1000))
    usage = SimpleNamespace(total=2000, used=1500, free=500)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UserError, match=r"unpacks to 1,000 bytes, and .* has 500 free"):
        unpack(archive, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_a_disk_that_fills_up_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = tar(tmp_path / "archive.tar.gz", ("a.jpg", bytes(1000)))

    def full(*args: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("cim_dg.data.archives._copy", full)
    with pytest.raises(RunError, match="No space left"):
        unpack(archive, tmp_path / "out")


@pytest.mark.parametrize("cut", [0.3, 0.9])
@pytest.mark.parametrize("form", ["tar", "zip"])
def test_damaged_archives_are_said_to_be(form: str, cut: float, tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    noise = os.urandom(200_000)
    if form == "tar":
        tar(archive, ("a.jpg", noise))
    else:
        with zipfile.ZipFile(archive, "w") as packed:
            packed.writestr("a.jpg", noise)
    content = archive.read_bytes()
    archive.write_bytes(content[: int(len(content) * cut)])
    with pytest.raises(UserError, match="damaged"):
        unpack(archive, tmp_path / "out")


def test_an_encrypted_zip_and_no_archive_are_refused(tmp_path: Path) -> None:
    archive = tmp_path / "archive.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("a.jpg", b"x")
    content = bytearray(archive.read_bytes())
    content[6] |= 1  # the flag in the entry's head, and in the directory
    content[content.index(b"PK\x01\x02") + 8] |= 1
    archive.write_bytes(content)
    with pytest.raises(UserError, match="encrypted"):
        unpack(archive, tmp_path / "out")
    (tmp_path / "text.txt").write_text("no archive")
    assert not is_archive(tmp_path / "text.txt")
    with pytest.raises(UserError, match="neither a zip nor a tar"):
        unpack(tmp_path / "text.txt", tmp_path / "out")
