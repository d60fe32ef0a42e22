"""Random state, and the state of a run, in files."""

from __future__ import annotations

import contextlib
import hashlib
import io
import pickle
import random
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cim_dg.errors import UserError
from cim_dg.runtime import settings
from cim_dg.runtime.files import open_atomically


def random_state() -> dict[str, Any]:
    """The state of the global random generators, of types that `torch.load(weights_only=True)` accepts.

    Of several GPUs it has only the current one's: a run uses one, and may resume where fewer are visible.
    """
    state: Any = np.random.get_state(legacy=True)
    name, keys, *rest = state
    return {
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(keys.astype(np.int64)), *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def restore_random_state(state: dict[str, Any]) -> None:
    """Set all global random generators back to what `random_state` returned."""
    version, values, gauss = state["python"]
    random.setstate((version, tuple(values), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.cpu().numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())


def keep_threads(before: int | None, device: torch.device | str) -> str | None:
    """Compute with as many threads as a job did before it was stopped: on a CPU its results depend on them.

    Args:
        before: as its checkpoint says; None if it does not.
        device: where the job computes.

    Returns:
        A sentence for the user if the job was now given another number, else None.
    """
    now = torch.get_num_threads()
    if before is None or before == now or torch.device(device).type != "cpu":
        return None
    torch.set_num_threads(before)
    return f"this job began with {before} threads and keeps them, in place of {now}"


@contextlib.contextmanager
def preserved_randomness() -> Iterator[None]:
    """Random draws inside do not change the global random generators."""
    state = random_state()
    try:
        yield
    finally:
        restore_random_state(state)


class Interval:
    """Decides when to write a checkpoint: after CIM_DG_CHECKPOINT_SECONDS, and a multiple of the writing time.

    Args:
        share: training between two checkpoints takes at least this many times as long as writing one, because disks
            may be slow and models large.
    """

    def __init__(self, share: int = 20) -> None:
        self._seconds, self._share = settings.get("CIM_DG_CHECKPOINT_SECONDS"), share
        self._written, self._write_seconds = time.monotonic(), 0.0

    def is_due(self) -> bool:
        """Whether it is time to write one."""
        return time.monotonic() - self._written >= max(self._seconds, self._share * self._write_seconds)

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Measures the time inside as that of writing a checkpoint."""
        start = time.monotonic()
        yield
        self._written = time.monotonic()
        self._write_seconds = self._written - start


_MARK = b"sha256:"
_NO_COMMENT = b"\0\0"


def save(path: Path, state: dict[str, Any]) -> None:
    """Write `state` (tensors and plain Python) to `path`, wholly or not at all, with a checksum.

    The checksum is the comment of the zip archive that `torch.save` writes, so that `torch.load` reads the file too.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    checksum = _checksum(buffer.getbuffer()[: -len(_NO_COMMENT)])
    buffer.seek(-len(_NO_COMMENT), io.SEEK_END)
    buffer.write(len(checksum).to_bytes(2, "little") + checksum)
    with open_atomically(path) as file:
        file.write(buffer.getbuffer())  # which is large: no copy


def load(path: Path, device: torch.device | str) -> dict[str, Any]:
    """Read what `save` wrote.

    Raises:
        UserError: the file is not one that `save` wrote, or a byte of it has changed since.
    """
    try:
        state = read_safely(path, device)
    except UserError as error:
        raise UserError(f"{path} cannot be resumed from: {error}") from None
    if not isinstance(state, dict):
        raise UserError(f"{path} cannot be resumed from: it holds a {type(state).__name__}")
    return state


def read_safely(path: str | Path, device: torch.device | str = "cpu") -> Any:
    """What `torch.save` wrote to a file; see `decode_safely`.

    Raises:
        UserError: what is wrong with the file, in words that do not name it.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise UserError(error.strerror or type(error).__name__) from None
    return decode_safely(content, device)


def decode_safely(content: bytes, device: torch.device | str = "cpu") -> Any:
    """What `torch.save` wrote, if it is tensors and plain values; code in it is never executed.

    The checksum of what `save` wrote is checked, or, of other content of `torch.save`, those of the archive's members,
    at which `torch.load` does not look.

    Raises:
        UserError: what is wrong with the content.
    """
    try:
        _check(content)
        return torch.load(io.BytesIO(content), map_location=device, weights_only=True)
    except UserError:
        raise
    except pickle.UnpicklingError:  # whose message has the advice to execute what the file holds
        raise UserError("it holds something else than tensors and plain values, which could execute code") from None
    except Exception as error:  # a file that is none of ours can raise anything
        raise UserError(" ".join(str(error).split())[:200] or type(error).__name__) from None


def _checksum(content: bytes | memoryview) -> bytes:
    """Of an archive without its comment: `content` ends before the comment's length."""
    digest = hashlib.sha256(content)
    digest.update(_NO_COMMENT)
    return _MARK + digest.hexdigest().encode()


def _check(content: bytes) -> None:
    """Compare the checksums of a file with what it holds; a file that is no zip archive has none.

    Raises:
        UserError: one differs.
        zipfile.BadZipFile: an archive cannot be read.
    """
    length = len(_checksum(b""))
    if content[-length:].startswith(_MARK):
        differs = content[-length:] != _checksum(memoryview(content)[: -length - len(_NO_COMMENT)])
    else:
        differs = zipfile.is_zipfile(io.BytesIO(content)) and zipfile.ZipFile(io.BytesIO(content)).testzip() is not None
    if differs:
        raise UserError("it is damaged, its checksum differs")
