"""The state of the random generators and the number of threads, on this machine and on another one."""

from __future__ import annotations

import random
from pathlib import Path

import bad_files
import numpy as np
import pytest
import torch

from cim_dg.errors import UserError
from cim_dg.runtime import checkpoint


def draw() -> list[float]:
    return [random.random(), float(np.random.rand()), float(torch.rand(()))]


def test_all_generators_go_on_where_they_were(tmp_path) -> None:
    checkpoint.save(tmp_path / "state", checkpoint.random_state())
    drawn = draw()
    checkpoint.restore_random_state(checkpoint.load(tmp_path / "state", "cpu"))
    assert draw() == drawn


def test_a_job_goes_on_where_fewer_gpus_are_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the checkpoint it computed on the third of three GPUs; then there is one, and then none."""
    states = [torch.full((16,), number, dtype=torch.uint8) for number in range(3)]
    current = 2
    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(states))

    def set_state(state: torch.Tensor) -> None:
        states[current] = state

    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda: states[current])
    monkeypatch.setattr(torch.cuda, "set_rng_state", set_state)
    for name in ("get_rng_state_all", "set_rng_state_all"):
        monkeypatch.setattr(torch.cuda, name, None)
    state = checkpoint.random_state()
    states[:], current = [torch.zeros(16, dtype=torch.uint8)], 0
    checkpoint.restore_random_state(state)
    assert states[0].tolist() == [2] * 16
    states.clear()
    drawn = draw()
    checkpoint.restore_random_state(state)
    assert len(draw()) == len(drawn)


@pytest.mark.parametrize(("before", "device", "kept"), [(3, "cpu", 3), (3, "cuda", 1), (None, "cpu", 1), (1, "cpu", 1)])
def test_threads_are_kept_on_a_cpu(before: int | None, device: str, kept: int) -> None:
    assert torch.get_num_threads() == 1
    try:
        sentence = checkpoint.keep_threads(before, device)
        assert torch.get_num_threads() == kept
    finally:
        torch.set_num_threads(1)
    changed = "this job began with 3 threads and keeps them, in place of 1"
    assert sentence == (changed if kept == 3 else None)


STATE = {"weights": torch.arange(5.0), "args": {"lr": 1, "names": ["a", "b"]}}


def test_a_flipped_byte_is_never_loaded(tmp_path: Path) -> None:
    """Each byte of a checkpoint, and some of an earlier version's, which has the checksums of the archive only."""
    good, bad = tmp_path / "good.pt", tmp_path / "bad.pt"
    checkpoint.save(good, STATE)
    assert repr(torch.load(good, weights_only=True)) == repr(STATE), "torch.load reads it, too"
    content = good.read_bytes()
    for place in range(len(content)):
        _flip(content, place, bad)
        try:
            assert repr(checkpoint.load(bad, "cpu")) == repr(STATE), place  # it was in the checksum's mark
        except UserError as error:
            assert str(bad) in str(error) and "\n" not in str(error)
    torch.save(STATE, good)
    assert repr(checkpoint.load(good, "cpu")) == repr(STATE), "a checkpoint of an earlier version"
    content = good.read_bytes()
    _flip(content, content.index(torch.arange(5.0).numpy().tobytes()) + 3, bad)
    with pytest.raises(UserError, match="it is damaged, its checksum differs"):
        checkpoint.load(bad, "cpu")


def _flip(content: bytes, place: int, path: Path) -> None:
    changed = bytearray(content)
    changed[place] ^= 1 << place % 8
    path.write_bytes(bytes(changed))


@pytest.mark.parametrize("content", [b"", b"text", bad_files.hostile(), bad_files.hostile()[:-30]])
def test_what_is_no_checkpoint(content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "state.pt"
    path.write_bytes(content)
    with pytest.raises(UserError, match="cannot be resumed from: ") as raised:
        checkpoint.load(path, "cpu")
    assert "weights_only" not in str(raised.value), "torch's advice to execute what the file holds"
    assert list(tmp_path.iterdir()) == [path], "no code in the file was executed"
    torch.save([1, 2], path)
    with pytest.raises(UserError, match="it holds a list"):
        checkpoint.load(path, "cpu")
