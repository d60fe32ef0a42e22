"""`cim-dg wilds backgrounds`: the Backgrounds Challenge for ImageNet classifiers, by a mapping of their classes."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cim_dg.errors import UserError
from cim_dg.wilds import config as settings

if TYPE_CHECKING:  # every call of the command imports this module; torch takes seconds
    from torch import Tensor

NUM_IMAGENET = 1000
NONE = -1  # in the mapping: the ImageNet class belongs to none of the nine


def add_parser(subparsers: Any) -> None:
    """Add the command `backgrounds`."""
    parser = subparsers.add_parser(
        "backgrounds",
        help="test an ImageNet classifier on the Backgrounds Challenge",
        description="Print the accuracy of a 1,000-class ImageNet classifier on each variant of ImageNet-9. Networks "
        "with nine classes are trained and tested by `cim-dg wilds train --dataset backgrounds`.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--root_dir", required=True, help="folder that holds original/val, mixed_same/val, ...")
    add("--mapping", type=Path, required=True, help="upstream's in_to_in9.json: ImageNet's index -> 0 to 8, or -1")
    add("--model", choices=settings.IMAGENET_MODELS, default="resnet50")
    add("--pretrained_model_path", help="file with weights of the model, taken instead of ImageNet's")
    add("--target_resolution", nargs=2, type=int, default=[224, 224], help="height and width (default 224)")
    add("--batch_size", type=int, default=64)
    add("--device", default="auto", help="cpu, or the number of a GPU (default the first GPU, if there is one)")
    add("--adversarial", action="store_true", help="also count the foregrounds that some background spoils")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Evaluate, and print one line per figure."""
    if arguments.batch_size < 1:
        raise UserError(f"batch_size is {arguments.batch_size}; accepted is a whole number of at least 1")
    from cim_dg.backgrounds.adversarial import Challenge
    from cim_dg.backgrounds.in9 import VARIANTS, class_folder, tested_on
    from cim_dg.runtime.devices import choose_device
    from cim_dg.wilds.experiment import readable_errors
    from cim_dg.wilds.models import make_imagenet_classifier
    from cim_dg.wilds.transforms import make_transform, pixel_space

    device = choose_device(arguments.device)
    mapping = read_mapping(arguments.mapping).to(device)
    root, size = Path(arguments.root_dir), arguments.target_resolution
    folders = {variant: class_folder(root, tested_on(variant)) for variant in VARIANTS}
    challenge = Challenge(root, size) if arguments.adversarial else None
    network, weights = make_imagenet_classifier(arguments.model, arguments.pretrained_model_path)
    network.to(device).eval()
    space = pixel_space("imagenet").to(device)

    def predict(x: Tensor) -> Tensor:
        return mapping[network(x).argmax(dim=1)]

    print(f"{arguments.model}, weights {weights}; top-1 over ImageNet's classes, mapped to nine")
    accuracies = {}
    with readable_errors():
        for variant, folder in folders.items():
            folder.transform = make_transform("imagenet", None, size, None, training=False)
            accuracies[variant] = accuracy(predict, folder, arguments.batch_size, device)
            print(f"{variant}: {accuracies[variant]:.1%}", flush=True)
        gap = accuracies["mixed_same"] - accuracies["mixed_rand"]
        print(f"gap (mixed_same - mixed_rand): {100 * gap:.1f} points")
        if challenge is not None:
            vulnerable = challenge.vulnerable(lambda x: predict(space.from_pixels(x)), device, arguments.batch_size)
            print(
                f"vulnerable to adversarial backgrounds: {vulnerable.rate:.1%} "
                f"({vulnerable.count} of {vulnerable.total} foregrounds)"
            )
    return 0


def read_mapping(path: Path) -> Tensor:
    """The mapping from ImageNet's classes to the nine: (1000,), int64, from -1 (none of the nine) to 8.

    Raises:
        UserError: the file is not such JSON, or a class is missing.
    """
    import torch

    from cim_dg.backgrounds.in9 import NUM_CLASSES

    if path.exists() and not path.is_file():
        raise UserError(f"the mapping {path} is not a file")
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"the mapping {path} cannot be read: {error.strerror}") from None
    except ValueError:
        raise UserError(f"the mapping {path} is not JSON") from None
    if not isinstance(entries, dict) or set(entries) != {str(index) for index in range(NUM_IMAGENET)}:
        raise UserError(f"the mapping {path} must have an entry for each of ImageNet's classes, from '0' to '999'")
    for index, value in entries.items():
        if isinstance(value, bool) or not isinstance(value, int) or not NONE <= value < NUM_CLASSES:
            raise UserError(f"the mapping {path} has {value!r} for class {index}; accepted is a number from -1 to 8")
    return torch.tensor([entries[str(index)] for index in range(NUM_IMAGENET)])


def accuracy(predict: Any, images: Any, batch_size: int, device: Any) -> float:
    """The accuracy of `predict`, (N, 3, H, W) -> (N,), on (image, class) pairs, in [0, 1]."""
    import torch
    from torch.utils.data import DataLoader

    hits = 0
    with torch.no_grad():
        for x, y in DataLoader(images, batch_size):
            hits += int((predict(x.to(device)).cpu() == y).sum())
    return hits / len(images)
