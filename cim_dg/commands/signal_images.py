"""The images of `cim-dg signal`: of a dataset of DomainBed or WILDS, or of a folder with a folder for each class."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cim_dg import hparams as spaces
from cim_dg.errors import UserError
from cim_dg.nn.pixels import PixelSpace

FOLDER_BATCH = 64
"""The images of a step on a folder, which belongs to no harness with a default."""


@dataclass(frozen=True)
class Images:
    """Images as a method of ours gets them, without augmentation.

    Attributes:
        name: what they are, for the report.
        x: (N, C, H, W), in the normalisation `space`.
        y: (N,) class indices.
        domain: (N,) domain indices.
        space: the normalisation.
        hparams: CIM's hyper-parameters.
        batch_size: the images of a training step.
        balanced: whether a step has equally many images of each domain, as in DomainBed.
    """

    name: str
    x: Tensor
    y: Tensor
    domain: Tensor
    space: PixelSpace
    hparams: dict[str, Any]
    batch_size: int
    balanced: bool


def of_domainbed(
    dataset: str, data_dir: str | None, test_envs: Sequence[int], values: Mapping[str, Any], limit: int, seed: int
) -> Images:
    """At most `limit` random images, equally many from each environment that is not among `test_envs`.

    Args:
        dataset: its name in DomainBed or the stand-in.
        data_dir: the folder of all datasets.
        test_envs: the environments that training does not see.
        values: hyper-parameters of CIM, of the dataset, and `pixel_space`.
        limit: the largest number of images.
        seed: of the choice of images.

    Raises:
        UserError: there is no such dataset or environment, its files are missing, or a value is not accepted.
    """
    from cim_dg import autoload

    autoload.install()
    datasets = importlib.import_module("domainbed.datasets")
    if not hasattr(datasets, "get_dataset_class"):
        raise UserError(
            "the domainbed here is a fork of SWAD's form, whose datasets signal cannot open; accepted are DomainBed "
            "and its stand-in (CIM_DG_STANDIN=1), which read the same folders"
        )
    registry = importlib.import_module("domainbed.hparams_registry")
    try:
        kind = datasets.get_dataset_class(dataset)
    except NotImplementedError as error:  # of a real DomainBed
        raise UserError(f"--dataset is {dataset!r}: {error}") from None
    own = _checked(values, dataset)
    hparams = registry.default_hparams("CIM", dataset) | own | {"data_augmentation": False}
    try:
        environments = list(kind(data_dir, list(test_envs), hparams))
    except UserError:
        raise
    except (OSError, TypeError) as error:  # a real DomainBed joins the names of its folders to None
        from cim_dg.data.present import sentence

        advice = sentence("domainbed", dataset, data_dir)
        raise UserError(f"{dataset} cannot be read: {error}" + (f"; {advice}" if advice else "")) from None
    for env in test_envs:
        if env >= len(environments):
            raise UserError(f"--test_envs has {env}; {dataset} has the environments 0 to {len(environments) - 1}")
    trained = [env for number, env in enumerate(environments) if number not in test_envs]
    if not trained:
        raise UserError(f"--test_envs has all {len(environments)} environments of {dataset}; one must be left")
    generator = torch.Generator().manual_seed(seed)
    items, domains = [], []
    for number, env in enumerate(trained):
        chosen = torch.randperm(len(env), generator=generator)[: max(1, limit // len(trained))].tolist()
        items += [env[index] for index in chosen]
        domains += [number] * len(chosen)
    return _images(
        dataset,
        [(x, int(y)) for x, y in items],
        domains,
        hparams["pixel_space"],
        {name: value for name, value in hparams.items() if name in spaces.space("CIM")},
        hparams["batch_size"] * len(trained),
        balanced=True,
    )


def of_wilds(
    dataset: str, root_dir: str, defaults: str | None, values: Mapping[str, Any], limit: int, seed: int
) -> Images:
    """At most `limit` random images of the training split, as `cim-dg wilds train` evaluates images.

    Args:
        dataset: its name in WILDS.
        root_dir: the folder of all datasets.
        defaults: named defaults instead of the dataset's, or a YAML file.
        values: hyper-parameters of CIM.
        limit, seed: as in `of_domainbed`.

    Raises:
        UserError: there is no such dataset, its files are missing or its images differ in size, or a value is not
            accepted.
    """
    from cim_dg.wilds.config import make_config
    from cim_dg.wilds.data import grouper, load_dataset
    from cim_dg.wilds.subset import ReadableSubset, collate
    from cim_dg.wilds.transforms import make_transform, pixel_space

    hparams = spaces.complete("CIM", values)
    config = make_config({"dataset": dataset, "algorithm": "CIM", "root_dir": root_dir}, defaults)
    options: dict[str, Any] = {"split_scheme": config.split_scheme, **config.dataset_kwargs}
    data = load_dataset(dataset, root_dir, version=config.version, **options)
    transform = make_transform(
        config.transform, data.original_resolution, config.target_resolution, config.resize_scale, training=False
    )
    split = ReadableSubset(data, data.get_subset("train").indices, transform)
    chosen = torch.randperm(len(split), generator=torch.Generator().manual_seed(seed))[:limit].tolist()
    x, y, metadata = collate([split[index] for index in chosen])
    domain = grouper(data, config.groupby_fields).metadata_to_group(metadata)
    return Images(dataset, x, y, domain, pixel_space(config.transform), hparams, config.batch_size, balanced=False)


def of_folder(folder: Path, side: int, values: Mapping[str, Any], limit: int, seed: int) -> Images:
    """At most `limit` random images of FOLDER/CLASS/IMAGE, in RGB, resized to `side` x `side` pixels.

    Args:
        folder: the folder.
        side: the side in pixels.
        values: hyper-parameters of CIM.
        limit, seed: as in `of_domainbed`.

    Raises:
        UserError: there is no such folder, an image is elsewhere in it or cannot be read, or a value is not accepted.
    """
    from torchvision.transforms import functional as TF

    from cim_dg.images.reading import find_images, read_image

    hparams = spaces.complete("CIM", values)
    paths = find_images(folder)
    for path in paths:
        if len(path.relative_to(folder).parts) != 2:
            raise UserError(
                f"{path} is not in a folder CLASS below {folder}, where every image must be; `cim-dg data register` "
                "takes folders of DOMAIN/CLASS"
            )
    classes = sorted({path.parent.name for path in paths})
    items = []
    for index in torch.randperm(len(paths), generator=torch.Generator().manual_seed(seed))[:limit].tolist():
        image = TF.to_tensor(TF.resize(read_image(paths[index]), [side, side]))
        items.append((image, classes.index(paths[index].parent.name)))
    return _images(str(folder), items, [0] * len(items), "unit", hparams, FOLDER_BATCH, balanced=False)


def _images(
    name: str,
    items: Sequence[tuple[Tensor, int]],
    domains: list[int],
    space: Any,
    hparams: dict[str, Any],
    batch_size: int,
    balanced: bool,
) -> Images:
    shapes = sorted({tuple(x.shape) for x, _ in items})
    if len(shapes) > 1:
        raise UserError(f"{name} has images of the shapes {shapes[0]} and {shapes[-1]}; accepted is one shape")
    if len(shapes[0]) != 3:
        raise UserError(f"{name} has inputs of the shape {shapes[0]}; accepted are images (C, H, W)")
    x = torch.stack([x for x, _ in items]).float()
    y = torch.tensor([y for _, y in items])
    space = PixelSpace.of(space, x.shape[1])
    return Images(name, x, y, torch.tensor(domains), space, hparams, batch_size, balanced)


def _checked(values: Mapping[str, Any], dataset: str) -> dict[str, Any]:
    """The values of hyper-parameters of CIM, of a dataset of ours, and `pixel_space`."""
    entries = spaces.space(f"datasets/{dataset}") | spaces.space("CIM")
    return spaces.check(entries | {"pixel_space": spaces.space("common")["pixel_space"]}, values)
