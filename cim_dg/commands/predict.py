"""`cim-dg predict`: classes and probabilities of images, by a trained model of either harness."""

from __future__ import annotations

import argparse
import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cim_dg.errors import UserError
from cim_dg.runtime.files import write_atomically

if TYPE_CHECKING:  # every call of the command line imports this module
    import torch

    from cim_dg.commands.models import Model


def add_parser(subparsers: Any) -> None:
    """Add `predict` to the command line."""
    parser = subparsers.add_parser(
        "predict",
        help="classify images with a trained model",
        description="Classify every image in a folder and below. Images are prepared as the model's harness prepares "
        "those that it evaluates on; size and normalisation come from the model's file.",
    )
    parser.add_argument(
        "--checkpoint",
        type=Path,
        required=True,
        help="model.pkl of DomainBed, ..._model.pth of `cim-dg wilds train`, or a folder of `cim-dg export`",
    )
    parser.add_argument("--images", type=Path, required=True, help="a folder of images")
    parser.add_argument("--output", type=Path, required=True, help="the CSV file to write")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--device", default="auto", help="cpu, or the number of a GPU (default the first GPU, if any)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write the predictions.

    Raises:
        UserError: the model, an image or an option is invalid.
    """
    if args.batch_size < 1:
        raise UserError(f"--batch_size is {args.batch_size}; accepted is a whole number of at least 1")
    from cim_dg.commands import models
    from cim_dg.images.reading import as_text, find_images
    from cim_dg.runtime.devices import choose_device

    device = choose_device(args.device)
    paths = find_images(args.images)
    model = models.build(models.read(args.checkpoint))
    if model.channels not in (1, 3):
        raise UserError(f"the model takes images of {model.channels} channels, which image files do not have")
    rows = [
        [as_text(path.relative_to(args.images)), model.classes[max(range(len(p)), key=p.__getitem__)], *p]
        for path, p in zip(paths, probabilities(model, paths, args.batch_size, device), strict=True)
    ]
    try:
        write_atomically(args.output, _table(model.classes, rows))
    except OSError as error:
        raise UserError(f"--output {args.output} cannot be written: {error.strerror}") from None
    print(f"wrote {args.output}: {len(rows)} images, {len(model.classes)} classes")
    return 0


def probabilities(
    model: Model, paths: Sequence[Path], batch_size: int, device: torch.device | str = "cpu"
) -> Iterator[list[float]]:
    """The softmax of the model's logits for each image: K floats that sum to 1.

    Raises:
        UserError: an image cannot be read, or the images of a batch differ in size after preparation.
    """
    import torch
    from tqdm import tqdm

    from cim_dg.images.reading import read_image

    network: Any = model.network.to(device)
    mode = "L" if model.channels == 1 else "RGB"
    with torch.no_grad(), tqdm(total=len(paths), unit="image", leave=False) as bar:
        for start in range(0, len(paths), batch_size):
            chunk = paths[start : start + batch_size]
            prepared = [model.prepare(read_image(path, mode)) for path in chunk]
            for path, image in zip(chunk, prepared, strict=True):
                if image.shape != prepared[0].shape:
                    raise UserError(
                        f"the image {path} is of another size than {chunk[0]}, and the model was trained without "
                        "target_resolution; accepted are images of one size"
                    )
            with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=model.bf16):
                logits = network.predict(torch.stack(prepared).to(device))
            yield from logits.double().softmax(dim=1).cpu().tolist()
            bar.update(len(chunk))


def _table(classes: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", "prediction", *(f"probability of {name}" for name in classes)])
    writer.writerows([image, predicted, *(f"{p:.6g}" for p in values)] for image, predicted, *values in rows)
    return text.getvalue()
