"""`cim-dg morph`: what CIM's network does to images, as a picture of x, the mask m and psi(x) = m * x."""

from __future__ import annotations

import argparse
import importlib
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cim_dg.errors import RunError, UserError
from cim_dg.runtime.files import write_atomically

if TYPE_CHECKING:  # every call of the command imports this module; torch and matplotlib take seconds
    import numpy as np
    from torch import Tensor

    from cim_dg.algorithms import Algorithm

IMAGE_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}
PRETRAINED_SIZE = (224, 224)  # of the images for which the harness has featurizers with weights
CHECKPOINT_KEYS = ("args", "model_input_shape", "model_num_classes", "model_num_domains", "model_hparams", "model_dict")


def add_parser(subparsers: Any) -> None:
    """Add `morph` to the command."""
    parser = subparsers.add_parser(
        "morph",
        help="draw x, m and psi(x) of a trained model",
        description="Draw images, the mask that a trained CIM or CIM_VIB gives them, and what its classifier sees.",
    )
    parser.add_argument("--checkpoint", type=Path, required=True, help="model.pkl of domainbed.scripts.train")
    parser.add_argument(
        "--images", type=Path, help="a folder of images (default: the test images, of NuisanceDigits only)"
    )
    parser.add_argument("--output", type=Path, required=True, help="the PNG to write")
    parser.add_argument("--count", type=int, default=8, help="how many images, evenly from the folder (default: 8)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Carry out `cim-dg morph`."""
    if args.count < 1:
        raise UserError(f"--count is {args.count}; it must be at least 1")
    checkpoint = read_checkpoint(args.checkpoint)
    method = rebuild(checkpoint, args.checkpoint)
    if args.images is not None:
        pixels, names = folder_images(args.images, checkpoint["model_input_shape"], args.count)
    else:
        pixels, names = _test_images(checkpoint, args.count)
    morph_figure(method, method.pixel_space.from_pixels(pixels), args.output, names)
    print(f"wrote {args.output}")
    return 0


def morph_figure(method: Algorithm, images: Tensor, path: str | os.PathLike[str], names: Sequence[str] = ()) -> None:
    """Write a PNG with a column per image and the rows x, m and psi(x); under each mask stands its mean.

    Args:
        method: one with `morph(x)`, whose result has pixels, mask and morphed; it is asked in evaluation mode.
        images: (N, C, H, W), normalised as `method` is fed.
        path: of the PNG.
        names: what to write above the images.

    Raises:
        UserError: `method` has no mask, or the file cannot be written.
    """
    import torch
    from matplotlib.figure import Figure  # by itself it needs no display, and pyplot's global state stays as it is

    if not hasattr(method, "morph"):
        raise UserError(_no_mask(method.name))
    training, device = method.training, next(method.parameters()).device
    try:
        with torch.no_grad():
            draw: Any = method.eval()
            morph = draw.morph(images.to(device))
    finally:
        method.train(training)
    count = len(images)
    figure = Figure(figsize=(1.3 * count + 1.6, 4.6), layout="constrained")
    axes = figure.subplots(3, count, squeeze=False)
    masks = morph.mask.mean(dim=1)
    for row, pictures in enumerate((morph.pixels, masks, morph.morphed)):
        for axis, picture in zip(axes[row], _viewable(pictures), strict=True):
            shown = axis.imshow(picture, cmap="viridis" if row == 1 else "gray", vmin=0, vmax=1)
            axis.set(xticks=[], yticks=[])
        if row == 1:
            figure.colorbar(shown, ax=axes, label="m", shrink=0.4, fraction=0.05, pad=0.02)
    m = "m" if morph.mask.shape[1] == 1 else "m, mean of channels"
    for axis, label in zip(axes[:, 0], ("x", m, "ψ(x) = m · x"), strict=True):
        axis.set_ylabel(label)
    for axis, mask in zip(axes[1], masks, strict=True):
        axis.set_xlabel(f"mean {mask.mean():.2f}", fontsize="small")
    for axis, name in zip(axes[0], names, strict=False):
        axis.set_title(name, fontsize="small")
    figure.suptitle(method.name)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    try:
        write_atomically(path, buffer.getvalue())
    except OSError as error:
        raise UserError(f"the picture cannot be written to {path}: {error.strerror}") from None


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The contents of a model.pkl of DomainBed's, the real one's or the stand-in's, read by torch.load's safe default.

    Raises:
        UserError: there is no such file, or it is something else.
    """
    import torch

    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"the checkpoint {path} cannot be read: {error.strerror}") from None
    except Exception as error:  # torch.load answers to strange bytes with whatever its parts raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path} is no checkpoint that torch.load takes as safe: {reason}") from None
    if not isinstance(checkpoint, dict) or any(key not in checkpoint for key in CHECKPOINT_KEYS):
        raise UserError(f"{path} is no model.pkl of domainbed.scripts.train: that has {', '.join(CHECKPOINT_KEYS)}")
    return checkpoint


def rebuild(checkpoint: dict[str, Any], path: Path) -> Algorithm:
    """The trained method in a checkpoint, by the DomainBed that is found here.

    Raises:
        UserError: the algorithm has no mask, or the checkpoint's parameters are not those of the algorithm.
        RunError: DomainBed cannot build the algorithm (its pretrained weights are not at hand, say).
    """
    from cim_dg import autoload
    from cim_dg.algorithms import methods

    name = checkpoint["args"].get("algorithm")
    if not hasattr(methods().get(name), "morph"):
        raise UserError(f"{path}: {_no_mask(name)}")
    autoload.install()
    try:
        algorithms = importlib.import_module("domainbed.algorithms")
        registry = importlib.import_module("domainbed.hparams_registry")
        hparams, shape = dict(checkpoint["model_hparams"]), checkpoint["model_input_shape"]
        if "weights" in getattr(registry, "OPTIONAL", ()) and tuple(shape[1:]) == PRETRAINED_SIZE:
            hparams["weights"] = _without_download(hparams.get("weights"))
        numbers = "model_num_classes", "model_num_domains"
        built = algorithms.get_algorithm_class(name)(shape, *(checkpoint[key] for key in numbers), hparams)
    except UserError:
        raise
    except Exception as error:  # the harness' code and its downloads can fail in any way
        raise RunError(f"{name} of {path} cannot be built here: {type(error).__name__}: {error}") from None
    try:
        built.load_state_dict(checkpoint["model_dict"])
    except RuntimeError as error:
        raise UserError(
            f"{path} does not fit {name} as it is built here: {str(error).splitlines()[-1].strip()}"
        ) from None
    return built.method


def folder_images(folder: Path, shape: Sequence[int], count: int) -> tuple[Tensor, list[str]]:
    """At most `count` images below a folder, evenly by name: resized pixels (N, C, H, W) in [0, 1], and their names.

    Raises:
        UserError: there is no such folder, no image in it, one that cannot be read, or `shape` has no 1 or 3 channels.
    """
    import numpy as np
    import torch
    from PIL import Image

    channels, height, width = shape
    if channels not in (1, 3):
        raise UserError(f"the model takes images of {channels} channels, which image files do not have")
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    if not paths:
        raise UserError(f"there is no image in {folder} ({', '.join(sorted(IMAGE_SUFFIXES))})")
    chosen = [paths[index] for index in np.unique(np.linspace(0, len(paths) - 1, count).round().astype(int))]
    images = []
    for path in chosen:
        try:
            with Image.open(path) as image:
                small = image.convert("L" if channels == 1 else "RGB").resize(
                    (width, height), Image.Resampling.BILINEAR
                )
        except (OSError, SyntaxError, ValueError) as error:
            raise UserError(f"the image {path} cannot be read: {error}") from None
        images.append(torch.tensor(np.asarray(small)).view(height, width, channels).permute(2, 0, 1))
    # Under which folder an image lies is often its class.
    names = ["\n".join(path.relative_to(folder).with_suffix("").parts[-2:]) for path in chosen]
    return torch.stack(images).float() / 255, names


def _test_images(checkpoint: dict[str, Any], count: int) -> tuple[Tensor, list[str]]:
    """The first images of the checkpoint's test environment, if that is NuisanceDigits'."""
    from cim_dg.domainbed.datasets import environments_for

    dataset = checkpoint["args"].get("dataset")
    if dataset != "NuisanceDigits":
        raise UserError(f"--images DIR is needed: the model was trained on {dataset}, of which no images are at hand")
    test = environments_for(checkpoint["model_hparams"])[checkpoint["args"]["test_envs"][0]]
    return test.images[:count], [f"{test.name}: {label}" for label in test.labels[:count].tolist()]


def _without_download(weights: object) -> object:
    """The stand-in's hyper-parameter `weights`, so that no file is sought whose content the checkpoint replaces."""
    from cim_dg.nn import efficientnet

    return weights if weights == efficientnet.NAME else "random"  # the former is another architecture


def _no_mask(name: str) -> str:
    from cim_dg.algorithms import methods

    having = [other for other, method in methods().items() if hasattr(method, "morph")]
    return f"{name} has no mask to draw; the algorithms that have one are {', '.join(having)}"


def _viewable(pictures: Tensor) -> np.ndarray:
    """(N, C, H, W) or (N, H, W) in [0, 1] -> for imshow: 3 channels as colours, 2 as red and green, else grey."""
    import torch

    pictures = pictures.detach().float().cpu()
    if pictures.dim() == 4:
        channels = pictures.shape[1]
        if channels == 2:
            pictures = torch.cat([pictures, torch.zeros_like(pictures[:, :1])], dim=1)
        pictures = pictures.permute(0, 2, 3, 1) if channels in (2, 3) else pictures.mean(dim=1)
    return pictures.clamp(0, 1).numpy()
