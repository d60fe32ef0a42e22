"""Downloads from a server that is slow, breaks off, lies or has nothing; and full disks and killed processes."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from data_lookalikes import domain_names, tree, zipped
from data_server import Server, serving

from cim_dg import cli
from cim_dg.data import catalogue, download
from cim_dg.data.catalogue import File, Source, load
from cim_dg.data.download import CHUNK, fetch
from cim_dg.errors import RunError, UserError

CONTENT = bytes(range(256)) * 800  # 204,800 bytes
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(download, "WAIT", 0.0)
    web = tmp_path / "web"
    web.mkdir()
    (web / "file.bin").write_bytes(CONTENT)
    with serving(web) as running:
        yield running


@pytest.fixture
def place(tmp_path: Path) -> Path:
    folder = tmp_path / "here"
    folder.mkdir()
    return folder


def file(server: Server, checksum: str | None = f"sha256:{SHA256}", name: str = "file.bin") -> File:
    return File(address=f"{server.url}/{name}", name=name, checksum=checksum, size=None)


def test_a_file_is_whole_and_alone(server: Server, place: Path) -> None:
    assert fetch(file(server), place).read_bytes() == CONTENT
    assert os.listdir(place) == ["file.bin"]
    fetch(file(server), place)
    assert len(server.requests) == 1, "what is there and right is not downloaded again"


def test_a_truncated_answer_is_gone_on_with(server: Server, place: Path) -> None:
    server.faults.truncated["file.bin"] = 2
    assert fetch(file(server, checksum=None), place).read_bytes() == CONTENT
    first = len(CONTENT) // 2 // CHUNK * CHUNK
    second = first + (len(CONTENT) - first) // 2 // CHUNK * CHUNK
    assert 0 < first < second
    assert server.ranges("file.bin") == [None, f"bytes={first}-", f"bytes={second}-"]


@pytest.mark.parametrize("lacking", ["without_ranges", "without_tags"])
def test_without_ranges_or_tags_it_begins_anew(lacking: str, server: Server, place: Path) -> None:
    setattr(server.faults, lacking, True)
    server.faults.truncated["file.bin"] = 1
    assert fetch(file(server, checksum=None), place).read_bytes() == CONTENT
    assert len(server.requests) == 2


def test_a_file_that_changed_meanwhile_is_not_stitched_together(server: Server, place: Path, tmp_path: Path) -> None:
    server.faults.truncated["file.bin"] = download.ATTEMPTS
    with pytest.raises(RunError):
        fetch(file(server, checksum=None), place)
    assert (place / "file.bin.part").stat().st_size >= len(CONTENT) // 2 // CHUNK * CHUNK
    (tmp_path / "web" / "file.bin").write_bytes(CONTENT[::-1])
    server.faults.truncated.clear()
    assert fetch(file(server, checksum=None), place).read_bytes() == CONTENT[::-1]


def test_a_slow_server_is_waited_for(server: Server, place: Path) -> None:
    server.faults.seconds_a_chunk = 0.01
    assert fetch(file(server), place).read_bytes() == CONTENT


def test_a_server_that_is_busy_is_asked_again(server: Server, place: Path) -> None:
    server.faults.failing["file.bin"] = 2
    assert fetch(file(server), place).read_bytes() == CONTENT
    server.faults.failing["file.bin"] = 99
    (place / "file.bin").unlink()
    with pytest.raises(RunError, match="the server answers 503"):
        fetch(file(server), place)
    assert len(server.requests) == 3 + download.ATTEMPTS


def test_a_missing_file_is_said_at_once(server: Server, place: Path) -> None:
    with pytest.raises(RunError, match="the server answers 404"):
        fetch(file(server, name="absent.zip"), place)
    assert len(server.requests) == 1 and os.listdir(place) == []


def test_nobody_at_the_address(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "WAIT", 0.0)
    with pytest.raises(RunError, match="cannot be downloaded"):
        fetch(File(address="http://127.0.0.1:9/file.bin", name="file.bin", checksum=None, size=None), place)


def test_a_wrong_checksum_is_refused_and_nothing_kept(server: Server, place: Path) -> None:
    with pytest.raises(RunError, match="its checksum is not md5:0123"):
        fetch(file(server, checksum="md5:0123"), place)
    assert os.listdir(place) == [] and len(server.requests) == 1


def test_more_than_the_dataset_may_have_is_refused(server: Server, place: Path) -> None:
    with pytest.raises(RunError, match="204,800 bytes, more than the 204,799"):
        fetch(file(server), place, limit=len(CONTENT) - 1)


Usage = namedtuple("Usage", "total used free")


def test_the_disk_is_looked_at_first(server: Server, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(1_000_000, 960_000, 40_000))
    with pytest.raises(UserError, match=r"needs 0.0 GB, and .* has 0.0 GB free"):
        fetch(file(server), place)
    assert not (place / "file.bin").exists()


def test_a_disk_that_fills_up_keeps_what_came(server: Server, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the real thing: the file system takes some bytes, and then no more."""
    real_open = open

    def filling(path: Any, mode: str = "r", *more: Any, **named: Any) -> Any:
        opened = real_open(path, mode, *more, **named)
        if str(path).endswith(".part"):
            write = opened.write

            def full(chunk: bytes) -> int:
                write(chunk[:10_000])
                opened.flush()
                raise OSError(errno.ENOSPC, "No space left on device")

            class Filling:
                def __enter__(self) -> Filling:
                    return self

                def __exit__(self, *error: object) -> None:
                    opened.close()

                def __getattr__(self, name: str) -> Any:
                    return full if name == "write" else getattr(opened, name)

            return Filling()
        return opened

    monkeypatch.setattr("builtins.open", filling)
    with pytest.raises(RunError, match=r"is full; what of file\.bin came is kept"):
        fetch(file(server), place)
    monkeypatch.undo()
    assert (place / "file.bin.part").stat().st_size == 10_000
    assert fetch(file(server), place).read_bytes() == CONTENT
    assert server.ranges("file.bin") == [None, "bytes=10000-"]


def test_a_limit_on_the_size_of_files_ends_as_a_full_disk_does(server: Server, place: Path, tmp_path: Path) -> None:
    """The system itself refuses to write more, in a process of its own."""
    code = (
        "import resource, signal, sys; from pathlib import Path\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))\n"
        "from cim_dg.data.download import fetch\n"
        "from cim_dg.data.catalogue import File\n"
        "from cim_dg.errors import RunError\n"
        "try:\n"
        "    fetch(File(address=sys.argv[1], name='file.bin', checksum=None, size=None), Path(sys.argv[2]))\n"
        "except RunError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, f"{server.url}/file.bin", str(place)], capture_output=True, text=True, check=True
    )
    assert "cannot be written to" in done.stdout and "File too large" in done.stdout
    assert not (place / "file.bin").exists()


def test_google_drive_is_left_to_gdown(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = []

    def drive(url: str, output: str, **named: Any) -> str:
        requests.append((url, named["resume"]))
        Path(output).write_bytes(CONTENT)
        return output

    monkeypatch.setattr("gdown.download", drive)
    address = "https://drive.google.com/uc?id=1skwblH1_okBwxWxmRsp9_qi15hyPpxg8"
    right = File(address=address, name="VLCS.tar.gz", checksum=f"sha256:{SHA256}", size=None)
    assert fetch(right, place).read_bytes() == CONTENT
    assert requests == [(address, True)]
    with pytest.raises(RunError, match="its checksum is not"):
        fetch(right.model_copy(update={"name": "other.tar.gz", "checksum": "md5:00"}), place)
    assert os.listdir(place) == ["VLCS.tar.gz"]

    def refusing(url: str, output: str, **named: Any) -> str:
        raise RuntimeError("Cannot retrieve the public link of the file.")

    monkeypatch.setattr("gdown.download", refusing)
    with pytest.raises(RunError, match="Cannot retrieve the public link"):
        fetch(right.model_copy(update={"name": "third.tar.gz"}), place)


def test_a_package_that_is_missing_is_named(server: Server, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(UserError, match=r"pooch is needed .* pip install 'cim-dg\[data\]'"):
        fetch(file(server), place)


# The whole command.


def pacs(server: Server, web: Path, *names: str) -> catalogue.Dataset:
    """PACS with sources at these names, the last of which is there."""
    zipped(tree(web.parent / "pacs", domain_names(load("PACS"), each=1, top="kfold/")), web / names[-1])
    sources = tuple(
        Source(
            type="archive",
            files=(File(address=f"{server.url}/{name}", name=name, checksum=None, size=None),),
            tried=True,
        )
        for name in names
    )
    return load("PACS").model_copy(update={"sources": sources})


def test_the_next_source_is_taken_where_one_fails(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = pacs(server, tmp_path / "web", "gone.zip", "file.bin.zip", "PACS.zip")
    (tmp_path / "web" / "file.bin.zip").write_bytes(CONTENT)  # is there, but is no archive
    monkeypatch.setattr(catalogue, "load", lambda name: dataset)
    assert cli.main(["data", "get", "PACS", "--data_dir", str(tmp_path / "data"), "--no_verify"]) == 0
    errors = capsys.readouterr().err
    assert "404" in errors and "file.bin.zip" in errors
    assert (tmp_path / "data" / "PACS" / "photo" / "dog" / "photo_00.jpg").exists()


def test_where_all_fail_each_is_named_and_a_way_is_shown(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = pacs(server, tmp_path / "web", "PACS.zip")
    (tmp_path / "web" / "PACS.zip").unlink()
    monkeypatch.setattr(catalogue, "load", lambda name: dataset)
    assert cli.main(["data", "get", "PACS", "--data_dir", str(tmp_path / "data")]) == 1
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 2 and "404" in errors[0] and "--from PATH_OR_ADDRESS" in errors[1]
    assert not (tmp_path / "data" / "PACS").exists()


def test_a_killed_command_goes_on(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed in the download, and killed again in the unpacking: nothing is in the dataset's place but all of it."""
    dataset = pacs(server, tmp_path / "web", "PACS.zip")
    size = (tmp_path / "web" / "PACS.zip").stat().st_size
    description = tmp_path / "PACS.yaml"
    description.write_text(dataset.model_dump_json())
    code = (
        "import sys; from pathlib import Path\n"
        "from cim_dg.data import catalogue, get, archives\n"
        "dataset = catalogue.Dataset.model_validate_json(Path(sys.argv[1]).read_text())\n"
        "if sys.argv[3] == 'slowly':\n"
        "    import time; real = archives._copy\n"
        "    def slow(*args):\n        time.sleep(0.1); return real(*args)\n"
        "    archives._copy = slow\n"
        "get.download(dataset, Path(sys.argv[2]))\n"
    )
    data_dir = tmp_path / "data"
    part = data_dir / ".cim-dg-PACS" / "downloads" / "PACS.zip.part"

    def run(speed: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", code, str(description), str(data_dir), speed])

    server.faults.seconds_a_chunk = 0.1
    _kill_when(run("fast"), lambda: part.exists() and part.stat().st_size >= 4096)
    server.faults.seconds_a_chunk = 0.0
    assert 0 < part.stat().st_size < size and not (data_dir / "PACS").exists()
    unpacked = data_dir / ".cim-dg-PACS" / "unpacked"
    _kill_when(run("slowly"), lambda: any(unpacked.rglob("*.jpg")))
    assert not (data_dir / "PACS").exists()
    assert server.ranges("PACS.zip")[1] == f"bytes={_first_part(server)}-"
    assert run("fast").wait(60) == 0
    assert len(server.ranges("PACS.zip")) == 2, "what was downloaded is not downloaded again"
    assert len(list((data_dir / "PACS").rglob("*.jpg"))) == 28
    assert [path.name for path in (data_dir / ".cim-dg-PACS").iterdir()] == [".lock"]


def _first_part(server: Server) -> int:
    asked = server.ranges("PACS.zip")[1]
    assert asked is not None
    return int(asked.removeprefix("bytes=").removesuffix("-"))


def _kill_when(process: subprocess.Popen[bytes], condition: Any) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()


def test_two_commands_do_not_get_one_dataset(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cim_dg.data.get import download as get_dataset
    from cim_dg.runtime import locks

    dataset = pacs(server, tmp_path / "web", "PACS.zip")
    place = tmp_path / "data" / ".cim-dg-PACS"
    place.mkdir(parents=True)
    held = locks.claim(place)
    assert held is not None
    with held, pytest.raises(UserError, match="another process is getting PACS"):
        get_dataset(dataset, tmp_path / "data")
