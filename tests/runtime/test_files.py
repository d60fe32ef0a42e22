"""Files are wholly there or not at all, and what killed writers left is removed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cim_dg.runtime.files import open_atomically, remove_partial, write_atomically

KILLED = "import os, signal, sys; from cim_dg.runtime.files import open_atomically\n"
KILLED += (
    "with open_atomically(sys.argv[1]) as file: file.write(b'ha'); file.flush(); os.kill(os.getpid(), signal.SIGKILL)"
)


def test_a_killed_writer_leaves_the_old_file_and_a_partial_one_that_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    write_atomically(path, "old")
    others = [tmp_path / name for name in (".lock", ".checkpoint.pt", ".hidden.txt", "results.jsonl")]
    for other in others:
        other.touch()
    killed = subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    (partial,) = set(tmp_path.iterdir()) - {path, *others}
    assert partial.read_bytes() == b"ha" and path.read_text() == "old"
    remove_partial(tmp_path)
    assert set(tmp_path.iterdir()) == {path, *others}


def test_who_raises_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), open_atomically(tmp_path / "a") as file:
        file.write(b"ha")
        _ = 1 / 0
    assert os.listdir(tmp_path) == []


def test_a_pipe_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["cat", str(pipe)], stdout=subprocess.PIPE) as reader:
        write_atomically(pipe, "text")
        assert reader.communicate(timeout=60)[0] == b"text"
    assert pipe.is_fifo() and os.listdir(tmp_path) == ["pipe"]


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="there is no /dev/full")
def test_a_device_is_written_to_and_not_replaced() -> None:
    with pytest.raises(OSError, match="No space left"):
        write_atomically("/dev/full", "text")
    assert Path("/dev/full").is_char_device()
