"""`cim-dg signal`: whether CIM's contrast has class information on a dataset, before anybody trains."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cim_dg.errors import UserError
from cim_dg.runtime.bounds import SEED, whole
from cim_dg.runtime.files import write_atomically

if TYPE_CHECKING:  # every call of the command line imports this module; torch takes seconds
    from cim_dg.commands.signal_images import Images

_FEWEST_DRAWS = 20  # 4, as gradient_signal needs, with each of 5 permutations of the labels
_FEWEST_SIDE = 7


def add_parser(subparsers: Any) -> None:
    """Add `signal` to the command line."""
    parser = subparsers.add_parser(
        "signal",
        help="measure, before any training, whether CIM's contrast has class information on a dataset",
        description="Measure, before any training, whether CIM's contrast has class information on a dataset: MS-SSIM "
        "within and across classes, and the signal-to-noise ratio of the contrast's gradient on the mask network at "
        "its start, with true and with shuffled labels.",
    )
    add = parser.add_argument
    add("--dataset", help="a dataset of DomainBed, with --data_dir if it has files, or of WILDS, with --root_dir")
    add("--data_dir", help="the folder of all datasets of DomainBed")
    add("--root_dir", help="the folder of all datasets of WILDS; the training split is taken")
    add("--images", type=Path, help="in place of --dataset, a folder of CLASS/IMAGE")
    add(
        "--test_envs",
        type=whole(),
        nargs="+",
        help="environments of DomainBed that training does not see, by number as there (default none)",
    )
    add("--defaults", help="of WILDS: named defaults or a YAML file instead of the dataset's")
    add("--side", type=whole(_FEWEST_SIDE, 4096), default=224, help="of --images: the side in pixels (default: 224)")
    add("--hparams", help="a JSON object of CIM's hyper-parameters and, in DomainBed, the dataset's")
    add("--max_images", type=whole(4, 100_000), default=500, help="images that are drawn at random (default: 500)")
    add(
        "--draws",
        type=whole(_FEWEST_DRAWS, 100_000),
        default=100,
        help="batches with true labels, and as many with "
        "shuffled ones (default: 100); more of them narrow the intervals of the signal-to-noise ratio",
    )
    add("--batch_size", type=whole(2), help="images of a batch in all (default: those of a training step)")
    add("--seed", type=whole(0, SEED), default=0, help="of images, mask network, batches and pairs (default: 0)")
    add("--device", default="auto", help="cpu, or the number of a GPU (default the first GPU, if any)")
    add("--output", metavar="DIR", type=Path, help="a folder for signal.json, signal.csv and signal.png")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Measure, print, and write.

    Raises:
        UserError: wrong input.
    """
    from tqdm import tqdm

    from cim_dg.commands import signal_measure, signal_report
    from cim_dg.runtime.devices import choose_device
    from cim_dg.runtime.provenance import versions

    device = choose_device(args.device)
    images = read_images(args)
    batch_size = args.batch_size or min(images.batch_size, len(images.y))
    signal_measure.check(images, batch_size)
    if args.output is not None:
        try:
            args.output.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--output {args.output} cannot be a folder: {error.strerror}") from None
    similar = signal_measure.similarities(images, args.seed, device)
    with tqdm(total=2 * args.draws, unit="draw", leave=False) as bar:
        signal = signal_measure.gradient_signal(images, batch_size, args.draws, args.seed, device, bar.update)
    count, side = len(images.y), " x ".join(map(str, images.x.shape[2:]))
    classes = len(images.y.unique())
    title = f"{images.name}: {count} images of {side} pixels, {classes} classes"
    table, sentence = signal_report.rows(similar, signal), signal_report.meaning(similar, signal)
    print(signal_report.text(title, table, sentence), end="")
    if args.output is None:
        return 0
    record = {
        "dataset": images.name,
        "images": count,
        "shape": list(images.x.shape[1:]),
        "classes": classes,
        "batch_size": batch_size,
        "hparams": images.hparams,
        "args": {name: value for name, value in vars(args).items() if isinstance(value, (str, int, list))},
        **signal_report.as_json(similar, signal),
        "meaning": sentence,
        "versions": versions(["torch", "numpy"]),
    }
    try:
        write_atomically(args.output / "signal.json", json.dumps(record, indent=1) + "\n")
        write_atomically(args.output / "signal.csv", signal_report.as_csv(table))
        write_atomically(args.output / "signal.png", signal_report.picture(title, similar, signal))
    except OSError as error:
        raise UserError(f"--output {args.output} cannot be written: {error.strerror}") from None
    print(f"wrote {args.output}/signal.json, signal.csv and signal.png")
    return 0


def read_images(args: argparse.Namespace) -> Images:
    """The images that the arguments name.

    Raises:
        UserError: they name none or several, have options of another kind of dataset, or cannot be read.
    """
    from cim_dg.commands import signal_images
    from cim_dg.domainbed.standin.hparams_registry import read_overrides
    from cim_dg.wilds.config import DATASETS

    if (args.dataset is None) == (args.images is None):
        raise UserError("accepted is one of --dataset NAME and --images FOLDER")
    values = read_overrides(args.hparams or "{}")
    if args.images is not None:
        _refuse(args, "--images", "data_dir", "root_dir", "test_envs", "defaults")
        return signal_images.of_folder(args.images, args.side, values, args.max_images, args.seed)
    if args.root_dir is None and args.dataset in DATASETS:
        raise UserError(f"{args.dataset} is a dataset of WILDS: give --root_dir, the folder of its datasets")
    if args.root_dir is not None:
        _refuse(args, "--root_dir", "data_dir", "test_envs")
        return signal_images.of_wilds(args.dataset, args.root_dir, args.defaults, values, args.max_images, args.seed)
    _refuse(args, "a dataset of DomainBed", "defaults")
    return signal_images.of_domainbed(
        args.dataset, args.data_dir, args.test_envs or [], values, args.max_images, args.seed
    )


def _refuse(args: argparse.Namespace, kind: str, *names: str) -> None:
    for name in names:
        if getattr(args, name) is not None:
            raise UserError(f"--{name} does not go with {kind}")
