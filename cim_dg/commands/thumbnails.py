"""Small pictures of images of a dataset, for the page of `cim-dg collect`, which runs this in a process of its own."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cim_dg import autoload

SIDE = 64
"""The longer side in pixels; smaller images stay as they are."""

Read = Callable[[int], tuple[Image.Image, int]]  # an image and its class, by number


def write(request: Mapping[str, Any]) -> None:
    """Write NUMBER.jpg for the images of a request (see `cim_dg.results.thumbnails`), where its class is the asked one.

    Another class means that the run had other data, or that its seed ordered the images.
    """
    read = (_of_domainbed if "env" in request else _of_wilds)(request)
    for number, label in request["images"]:
        with contextlib.suppress(Exception):  # the others can be shown
            image, found = read(number)
            if found == label:
                data = io.BytesIO()
                image.thumbnail((SIDE, SIDE))
                image.convert("RGB").save(data, "JPEG", quality=85, subsampling=0)
                Path(request["folder"], f"{number}.jpg").write_bytes(data.getvalue())


def _of_domainbed(request: Mapping[str, Any]) -> Read:
    from cim_dg import hparams as spaces
    from cim_dg.nn.pixels import PixelSpace

    datasets = importlib.import_module("domainbed.datasets")
    name, env, hparams = request["dataset"], request["env"], request["hparams"]
    # A test environment is not augmented.
    environment = datasets.get_dataset_class(name)(request["root"], [env], hparams)[env]
    default = spaces.space("common", name)["pixel_space"].default

    def read(number: int) -> tuple[Image.Image, int]:
        x, y = environment[number]
        pixels = PixelSpace.of(hparams.get("pixel_space", default), len(x)).to_pixels(x[None])[0].clamp(0, 1)
        levels = np.rint(255 * pixels.permute(1, 2, 0).numpy()).astype(np.uint8)
        return Image.fromarray(levels if levels.shape[2] == 3 else levels.max(axis=2)), int(y)

    return read


def _of_wilds(request: Mapping[str, Any]) -> Read:
    from cim_dg.wilds.data import load_dataset

    dataset = load_dataset(request["dataset"], request["root"], version=request["version"])
    return lambda number: (dataset.get_input(number), int(dataset.y_array[number]))


def main() -> None:
    """Serve the requests of stdin, a JSON list."""
    autoload.install()
    for request in json.load(sys.stdin):
        with contextlib.suppress(Exception):  # such as a dataset that is no longer there
            write(request)
