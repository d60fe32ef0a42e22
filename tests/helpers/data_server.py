"""A server on 127.0.0.1 that serves files as good and as badly as servers of datasets do."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


@dataclass
class Faults:
    """What goes wrong, by a file's name; each happens to that many answers, then all is well."""

    truncated: dict[str, int] = field(default_factory=dict)
    missing: set[str] = field(default_factory=set)
    failing: dict[str, int] = field(default_factory=dict)
    seconds_a_chunk: float = 0.0
    without_ranges: bool = False
    without_tags: bool = False


@dataclass
class Server:
    """A running server: its address, the faults that it has, and the requests that it had, as (name, range)."""

    url: str
    faults: Faults
    requests: list[tuple[str, str | None]]

    def ranges(self, name: str) -> list[str | None]:
        """The ranges that were asked of a file, in order; None is all of it."""
        return [asked for file, asked in self.requests if file == name]


CHUNK = 4096


@contextlib.contextmanager
def serving(folder: Path, repositories: dict[str, Path] | None = None) -> Iterator[Server]:
    """Serve the files of `folder`, and folders of parquet files as Hugging Face serves datasets, by OWNER/NAME."""
    faults, requests = Faults(), list[tuple[str, str | None]]()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: Any) -> None:
            pass

        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def _answer(self, with_body: bool) -> None:
            path = self.path.split("?")[0]
            if path.startswith("/api/datasets/"):
                self._json(_about(path, repositories or {}))
            elif "/resolve/" in path:
                owner, name, _, commit, *rest = path.removeprefix("/datasets/").split("/")
                self._file((repositories or {})[f"{owner}/{name}"].joinpath(*rest), with_body, commit)
            else:
                self._file(folder / path.lstrip("/"), with_body)

        def _json(self, content: Any) -> None:
            body = json.dumps(content).encode()
            self.send_response(200 if content else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def _file(self, file: Path, with_body: bool, commit: str | None = None) -> None:
            asked = self.headers.get("Range")
            if with_body:
                requests.append((file.name, asked))
            if file.name in faults.missing or not file.is_file():
                return self._empty(404)
            if faults.failing.get(file.name, 0):
                faults.failing[file.name] -= 1
                return self._empty(503)
            content = file.read_bytes()
            tag = f'"{hashlib.sha256(content).hexdigest()}"'
            start = 0
            if asked and not faults.without_ranges and self.headers.get("If-Range", tag) == tag:
                start = int(asked.removeprefix("bytes=").split("-")[0])
            if start > len(content):
                return self._empty(416)
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            if not faults.without_tags:
                self.send_header("ETag", tag)
            if commit is not None:
                self.send_header("X-Repo-Commit", commit)
            self.send_header("Content-Length", str(len(content) - start))
            self.send_header("Accept-Ranges", "bytes")
            self.end_headers()
            if with_body:
                self._send(file.name, content[start:])

        def _send(self, name: str, content: bytes) -> None:
            if faults.truncated.get(name, 0):
                faults.truncated[name] -= 1
                content = content[: len(content) // 2]
                self.close_connection = True
            with contextlib.suppress(ConnectionError):
                for place in range(0, len(content), CHUNK):
                    time.sleep(faults.seconds_a_chunk)
                    self.wfile.write(content[place : place + CHUNK])
                    self.wfile.flush()

        def _empty(self, code: int) -> None:
            self.send_response(code)
            self.send_header("Content-Length", "0")
            self.end_headers()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield Server(f"http://127.0.0.1:{server.server_address[1]}", faults, requests)
    finally:
        server.shutdown()
        server.server_close()


def _about(path: str, repositories: dict[str, Path]) -> dict[str, Any]:
    """What Hugging Face's API says of a dataset: its commit and its files."""
    repository = "/".join(path.removeprefix("/api/datasets/").split("/")[:2])
    if repository not in repositories:
        return {}
    root = repositories[repository]
    files = [
        {"rfilename": p.relative_to(root).as_posix(), "size": p.stat().st_size} for p in root.rglob("*") if p.is_file()
    ]
    return {"id": repository, "sha": "0" * 40, "siblings": files, "tags": [], "private": False, "downloads": 0}
