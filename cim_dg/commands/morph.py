"""`cim-dg morph`: a picture of images x, CIM's masks m and the morphs psi(x) = m * x."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cim_dg.errors import UserError
from cim_dg.runtime.files import write_atomically

_LONGEST = 24  # characters of a name in the picture
_MOST = 1000

if TYPE_CHECKING:  # every call of the command imports this module; torch and matplotlib take seconds
    from torch import Tensor

    from cim_dg.algorithms import Algorithm
    from cim_dg.commands.models import Model


def add_parser(subparsers: Any) -> None:
    """Add `morph` to the command."""
    parser = subparsers.add_parser(
        "morph",
        help="draw x, m and psi(x) of a trained model",
        description="Draw images, the mask that a trained CIM or CIM_VIB gives them, and what its classifier sees.",
    )
    parser.add_argument(
        "--checkpoint",
        type=Path,
        required=True,
        help="model.pkl of DomainBed, ..._model.pth of `cim-dg wilds train`, or a folder of `cim-dg export`",
    )
    parser.add_argument(
        "--images", type=Path, help="a folder of images (default: the test images, of NuisanceDigits only)"
    )
    parser.add_argument("--output", type=Path, required=True, help="the PNG to write")
    parser.add_argument("--count", type=int, default=8, help="how many images, evenly from the folder (default: 8)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Carry out `cim-dg morph`."""
    if not 1 <= args.count <= _MOST:
        raise UserError(f"--count is {args.count}; accepted are 1 to {_MOST} images")
    if args.output.suffix.lower() != ".png":
        raise UserError(f"--output is {str(args.output)!r}; accepted is a name that ends in .png")
    from cim_dg.algorithms import methods
    from cim_dg.commands import models

    stored = models.read(args.checkpoint)
    name = stored.about["algorithm"]
    if not hasattr(methods().get(name), "morph"):
        raise UserError(f"{args.checkpoint}: {_no_mask(name)}")
    model = models.build(stored)
    assert model.method is not None  # it has a mask
    if args.images is not None:
        images, names = folder_images(args.images, model, args.count)
    else:
        images, names = _test_images(stored.about, args.count)
    morph_figure(model.method, images, args.output, names)
    print(f"wrote {args.output}")
    return 0


def morph_figure(method: Algorithm, images: Tensor, path: str | os.PathLike[str], names: Sequence[str] = ()) -> None:
    """Write a PNG with a column per image and the rows x, m and psi(x), with each mask's mean below it.

    Args:
        method: a method with `morph(x)`, whose result has pixels and mask; used in evaluation mode.
        images: (N, C, H, W) in the method's normalisation.
        path: the path of the PNG.
        names: the titles of the images.

    Raises:
        UserError: `method` has no mask, or the file cannot be written.
    """
    from cim_dg.harness.morphs import morphs_of

    if not hasattr(method, "morph"):
        raise UserError(_no_mask(method.name))
    picture = morphs_of(method, images, names).png()
    try:
        write_atomically(path, picture)
    except OSError as error:
        raise UserError(f"the picture cannot be written to {path}: {error.strerror}") from None


def folder_images(folder: Path, model: Model, count: int) -> tuple[Tensor, list[str]]:
    """At most `count` images below a folder, evenly by name: (N, C, H, W) in the model's normalisation, and their
    names.

    Raises:
        UserError: there is no such folder, it has no images, one cannot be read, or the model's number of channels is
            neither 1 nor 3.
    """
    import numpy as np
    import torch

    from cim_dg.images.reading import as_text, find_images, read_image

    channels = model.channels
    if channels not in (1, 3):
        raise UserError(f"the model takes images of {channels} channels, which image files do not have")
    paths = find_images(folder)
    chosen = [paths[index] for index in np.unique(np.linspace(0, len(paths) - 1, count).round().astype(int))]
    images = [model.prepare(read_image(path, "L" if channels == 1 else "RGB")) for path in chosen]
    if len({image.shape for image in images}) > 1:
        raise UserError(f"the images of {folder} differ in size, and the model was trained without target_resolution")
    # The folder of an image is often its class.
    parts = [as_text(path.relative_to(folder).with_suffix("")).split("/")[-2:] for path in chosen]
    names = ["\n".join(part if len(part) <= _LONGEST else part[:_LONGEST] + "…" for part in of) for of in parts]
    return torch.stack(images), names


def _test_images(about: dict[str, Any], count: int) -> tuple[Tensor, list[str]]:
    """The first images of the model's test environment, if that is NuisanceDigits'.

    Models of NuisanceDigits take pixels without normalisation.

    Args:
        about: the model's description (`cim_dg.commands.models.Stored`).
        count: the number of images.

    Raises:
        UserError: the model was trained on another dataset.
    """
    from cim_dg.domainbed.datasets import environments_for

    if about["dataset"] != "NuisanceDigits":
        raise UserError(
            f"--images DIR is needed: the model was trained on {about['dataset']}, whose images must be given"
        )
    test = environments_for(about["hparams"])[about["args"]["test_envs"][0]]
    return test.images[:count], [f"{test.name}: {label}" for label in test.labels[:count].tolist()]


def _no_mask(name: str) -> str:
    from cim_dg.algorithms import methods

    having = [other for other, method in methods().items() if hasattr(method, "morph")]
    return f"{name} has no mask to draw; the algorithms that have one are {', '.join(having)}"
