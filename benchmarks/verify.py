"""`cim-dg data verify` compared with decoding only: 10,000 JPEGs of 256 pixels, as a ratio.

    python benchmarks/verify.py [--images 10000]

The baseline is Pillow in one process per core, which only reads and decodes the same files.
"""

from __future__ import annotations

import argparse
import io
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from cim_dg.data.catalogue import load
from cim_dg.data.verify import verify
from cim_dg.runtime.devices import cores

SIDE, KINDS = 256, 50


def write(folder: Path, count: int) -> list[str]:
    """Write PACS with `count` images of smooth noise, which decode as slowly as photographs; all files differ."""
    rng = np.random.RandomState(0)
    pictures = []
    for _ in range(KINDS):
        small = rng.randint(0, 256, (32, 32, 3), dtype=np.uint8)
        content = io.BytesIO()
        Image.fromarray(small).resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(content, "JPEG", quality=90)
        pictures.append(content.getvalue())
    dataset, paths = load("PACS"), []
    places = [folder / domain / name for domain in dataset.domains for name in dataset.classes]
    for place in places:
        place.mkdir(parents=True)
    for number in range(count):
        path = places[number % len(places)] / f"{number:06d}.jpg"
        path.write_bytes(pictures[number % KINDS] + number.to_bytes(4, "big"))
        paths.append(str(path))
    return paths


def decode(paths: list[str]) -> None:
    """Read and decode an image."""
    for path in paths:
        with Image.open(path) as image:
            image.load()


def decode_all(paths: list[str]) -> None:
    """The same on all cores."""
    chunks = [paths[start : start + 64] for start in range(0, len(paths), 64)]
    with ProcessPoolExecutor(cores(), mp_context=multiprocessing.get_context("spawn")) as workers:
        list(workers.map(decode, chunks))


def seconds(run: Callable[[], object]) -> float:
    """The seconds of a call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as data_dir:
        paths = write(Path(data_dir) / "PACS", arguments.images)
        decode_all(paths)  # so that all files are in memory
        pairs = [
            (seconds(lambda: verify(load("PACS"), Path(data_dir))), seconds(lambda: decode_all(paths)))
            for _ in range(arguments.repeats)
        ]
    ours, plain = (float(np.median(column)) for column in zip(*pairs, strict=True))
    rate = arguments.images / ours
    print(f"{arguments.images} JPEGs of {SIDE} pixels, {cores()} cores, medians of {arguments.repeats}:")
    print(f"verify {ours:.1f} s ({rate:.0f} images a second), decoding alone {plain:.1f} s, ratio {ours / plain:.2f}")


if __name__ == "__main__":
    main()
