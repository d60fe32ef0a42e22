"""Files that are odd in some way: YAML, records of runs, images and checkpoints, by a seeded generator.

Each function takes a generator and the path of a good file, and replaces that file by a bad one. It returns what is
bad about it, in words.
"""

from __future__ import annotations

import copy
import io
import json
import pickle
import random
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image

EXECUTED = "executed-by-a-checkpoint"
"""The file that a hostile checkpoint writes into the current folder if its code is executed."""

ODD_VALUES: tuple[Any, ...] = (
    *(None, True, "", "x", [], {}, [[[]]], {"a": 1}, 0, -1, 1.5, 10**30, -(10**30), 1e308, 1e-320),
    *(float("nan"), float("inf"), "nan", "2020-01-01", "../..", "/", "*", "a\nb", "é", "\udcff", "x" * 300, "9" * 5000),
)
BOMB = "".join(f"k{i}: &k{i} [{', '.join([f'*k{i - 1}'] * 9) if i else 'x'}]\n" for i in range(9))


def damage_yaml(rng: random.Random, path: Path) -> str:
    """A YAML file with odd values, in another encoding, or that is no plain data."""
    text = path.read_text(encoding="utf-8")
    ways: dict[str, Callable[[], bytes]] = {
        "UTF-16": lambda: text.encode("utf-16"),
        "latin-1": lambda: (text + "# é\n").encode("latin-1", "replace"),
        "a byte order mark": lambda: b"\xef\xbb\xbf" + text.encode(),
        "an alias bomb": lambda: (text + BOMB).encode(),
        "an alias of itself": lambda: (text + "\nself: &s [*s]\n").encode(),
        "deep nesting": lambda: (text + "\ndeep: " + "[" * 5000).encode(),
        "a date": lambda: (text + "\nday: 2020-01-01\n").encode(),
        "an include of itself": lambda: (text + f"\ninclude: {path}\n").encode(),
        "a tag": lambda: (text + "\nx: !!python/object/apply:os.system [true]\n").encode(),
    }
    if rng.random() < 0.6:
        data, about = _with_odd_values(rng, yaml.safe_load(text))
        path.write_text(yaml.safe_dump(data), encoding="utf-8", errors="surrogateescape")
        return about
    return _one_of(rng, ways, path, flips=3)


def damage_record(rng: random.Random, path: Path) -> str:
    """A run.json, results.jsonl or CSV with odd values, cut off, or replaced by something else."""
    content = path.read_bytes()
    ways: dict[str, Callable[[], bytes]] = {
        "deep nesting": lambda: b"[" * 100_000,
        "a long field": lambda: content + b'"' + b"x" * 200_000 + b'",1\n',
        "other encoding": lambda: content.decode().encode("utf-16"),
        "null characters": lambda: content + b"\0" * 100,
    }
    choice = rng.random()
    if choice < 0.1:
        path.unlink()
        if rng.random() < 0.5:
            path.mkdir()
            return f"a folder for {path.name}"
        path.symlink_to("nowhere")
        return f"a dangling link for {path.name}"
    if choice < 0.4:
        return _one_of(rng, ways, path, flips=5)
    if path.suffix == ".csv":
        rows = [line.split(",") for line in content.decode().splitlines()]
        row = rng.choice(rows)
        value = str(rng.choice(ODD_VALUES))
        row[rng.randrange(len(row))] = value
        path.write_text("\n".join(map(",".join, rows)) + "\n", encoding="utf-8", errors="surrogateescape")
        return f"{value[:20]!r} in {path.name}"
    lines = [content.decode()] if path.suffix == ".json" else content.decode().splitlines()
    number = rng.randrange(len(lines))
    data, about = _with_odd_values(rng, json.loads(lines[number]))
    lines[number] = json.dumps(data)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return about


def damage_image(rng: random.Random, path: Path) -> str:
    """An image that is cut off, empty, too large, of an odd mode, or none at all."""
    ways: dict[str, Callable[[], bytes]] = {
        "text": lambda: b"no image",
        "20,000 x 20,000": lambda: png_header(20_000),
        "100,000 x 100,000": lambda: png_header(100_000),
        "a side of 0": lambda: png_header(0),
        "16 bits": lambda: _encoded(Image.fromarray(np.full((9, 9), 60_000, np.uint16)), "PNG"),
        "float": lambda: _encoded(Image.fromarray(np.full((9, 9), 0.5, np.float32)), "TIFF"),
        "a palette": lambda: _encoded(Image.new("P", (9, 9)), "PNG"),
        "one pixel": lambda: _encoded(Image.new("RGB", (1, 1)), "PNG"),
        "CMYK": lambda: _encoded(Image.new("CMYK", (9, 9)), "TIFF"),
    }
    if rng.random() < 0.1:
        path.unlink()
        path.mkdir()
        return "a folder for an image"
    return _one_of(rng, ways, path, flips=20)


def damage_checkpoint(rng: random.Random, path: Path) -> str:
    """A checkpoint with flipped bytes, cut off, hostile, or of something else."""
    ways: dict[str, Callable[[], bytes]] = {
        "text": lambda: b"no checkpoint",
        "hostile pickle": lambda: pickle.dumps(_Hostile()),
        "hostile": hostile,
        "a list": lambda: _saved([1, 2]),
        "an empty dict": lambda: _saved({}),
        "odd entries": lambda: _saved({"algorithm": {"x": torch.zeros(3)}, "config": None}),
    }
    return _one_of(rng, ways, path, flips=1)


def hostile() -> bytes:
    """A file of torch.save that writes the file EXECUTED if the code in it is executed."""
    return _saved({"algorithm": _Hostile(), "model_dict": _Hostile()})


class _Hostile:
    """Writes the file EXECUTED when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (EXECUTED, "w")


def _one_of(rng: random.Random, ways: dict[str, Callable[[], bytes]], path: Path, flips: int) -> str:
    """Damage a file in one of `ways`, or in those that any file can be: empty, cut off, or with `flips` odd bytes."""
    content = path.read_bytes()
    ways = {
        "nothing": lambda: b"",
        "a cut": lambda: content[: rng.randrange(len(content))],
        "flipped bytes": lambda: _flipped(rng, content, flips),
        **ways,
    }
    about = rng.choice(list(ways))
    path.write_bytes(ways[about]())
    return f"{about} in {path.name}"


def _flipped(rng: random.Random, content: bytes, count: int) -> bytes:
    changed = bytearray(content)
    for _ in range(count):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _with_odd_values(rng: random.Random, data: Any) -> tuple[Any, str]:
    """The data with a value replaced, removed, or of another name."""
    whole = {"data": copy.deepcopy(data)}
    *outer, last = rng.choice([path for path in _places(whole) if path])
    target: Any = whole
    for key in outer:
        target = target[key]
    place = ".".join(map(str, (*outer, last)[1:])) or "all"
    way = rng.choice(["replaced", "replaced", "replaced", "removed", "renamed"])
    if way == "replaced" or not isinstance(target, dict) or not outer:
        value = target[last] = copy.deepcopy(rng.choice(ODD_VALUES))
        return whole["data"], f"{place} is {repr(value)[:20]}"
    value = target.pop(last)
    if way == "renamed":
        target[f"{last}x"] = value
    return whole["data"], f"{place} is {way}"


def _places(data: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [path, *(below for key, value in inner for below in _places(value, (*path, key)))]


def png_header(side: int) -> bytes:
    """A PNG of `side` x `side` pixels without its pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def _encoded(image: Image.Image, form: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form)
    return buffer.getvalue()


def _saved(content: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()
