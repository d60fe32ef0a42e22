"""Datasets of the package `wilds` as splits, loaders and groups."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import wilds
from torch import Tensor
from torch.utils.data import DataLoader, Sampler
from wilds.common.data_loaders import get_eval_loader, get_train_loader
from wilds.common.grouper import CombinatorialGrouper
from wilds.datasets.wilds_dataset import WILDSDataset, WILDSSubset

from cim_dg.backgrounds.adversarial import Challenge
from cim_dg.backgrounds.in9 import IN9
from cim_dg.data import own
from cim_dg.data.present import sentence
from cim_dg.errors import UserError
from cim_dg.images.reading import keep_limit
from cim_dg.runtime import checkpoint
from cim_dg.wilds import compat
from cim_dg.wilds.config import Config
from cim_dg.wilds.decoded import decoded_images
from cim_dg.wilds.loading import ThreadedLoader
from cim_dg.wilds.own_dataset import OwnDataset
from cim_dg.wilds.subset import ReadableSubset
from cim_dg.wilds.transforms import make_transform

Loader = DataLoader | ThreadedLoader


class ClassMates(Sampler[list[int]]):
    """Batches in which every image has others of its class, if its class has any.

    Images are drawn as in a shuffled epoch, so classes keep their frequencies. Each image comes with `per_class` - 1
    random others of its class. A batch has at most `batch_size` images, and an epoch as many images as the split.

    Args:
        labels: (N,) class indices.
        batch_size: a multiple of `per_class`.
        per_class: images per image drawn, itself included.
    """

    def __init__(self, labels: Tensor, batch_size: int, per_class: int) -> None:
        self.labels, self.batch_size, self.per_class = labels, batch_size, per_class
        order = torch.argsort(labels, stable=True)
        self.members = order.split(torch.bincount(labels).tolist())
        self.place = torch.empty_like(order)
        for members in self.members:
            self.place[members] = torch.arange(len(members))

    def __len__(self) -> int:
        return max(1, len(self.labels) // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        leads = self.batch_size // self.per_class
        for chunk in torch.randperm(len(self.labels)).split(leads)[: len(self)]:
            yield [index for lead in chunk.tolist() for index in (lead, *self._mates(lead))]

    def _mates(self, lead: int) -> list[int]:
        members = self.members[int(self.labels[lead])]
        if len(members) == 1:
            return []
        # An offset of 1 to len - 1 within the class never leads back to the image itself.
        offsets = torch.randint(1, len(members), (self.per_class - 1,))
        return members[(self.place[lead] + offsets) % len(members)].tolist()


class EpochBatches(Sampler[list[int]]):
    """A sampler's batches, all drawn at the start of an epoch, so that a run can resume at any of them.

    Attributes:
        skip: how many batches the next epoch skips; reset to 0 when it starts.
        drawn: called once, when the next epoch's batches have been drawn.
    """

    def __init__(self, batches: Any) -> None:
        self._batches = batches
        self.skip = 0
        self.drawn: Callable[[], None] | None = None

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[list[int]]:
        skip, self.skip = self.skip, 0
        drawn, self.drawn = self.drawn, None
        batches = [list(batch) for batch in self._batches][skip:]
        if drawn is not None:
            drawn()
        yield from batches


def batches_after(loader: Loader, is_random: bool, partial: Mapping[str, Any]) -> Iterator[Any]:
    """The batches of an epoch after a checkpoint within it, the same as in an uninterrupted run.

    Args:
        loader: the training loader.
        is_random: whether images are changed at random.
        partial: the checkpoint. It has the number of batches done (`batches`) and the random states at the epoch's
            start (`random_at_start`) and at the checkpoint (`random`).
    """
    epoch = loader.batch_sampler
    assert isinstance(epoch, EpochBatches)
    checkpoint.restore_random_state(partial["random_at_start"])
    if loader.num_workers == 0 or not is_random:
        epoch.skip = partial["batches"]
        epoch.drawn = lambda: checkpoint.restore_random_state(partial["random"])
        return iter(loader)
    # The loader's processes repeat their random numbers only if they load all images again.
    batches = iter(loader)
    for _ in range(partial["batches"]):
        next(batches)
    checkpoint.restore_random_state(partial["random"])
    return batches


@dataclass(frozen=True)
class Data:
    """A dataset ready for a run: its splits and loaders by name, its groupings, and the final challenge."""

    dataset: WILDSDataset
    splits: dict[str, ReadableSubset]
    loaders: dict[str, Loader]
    domains: CombinatorialGrouper
    groups: CombinatorialGrouper | None
    challenge: Challenge | None = None

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return int(self.dataset.n_classes)

    def class_names(self) -> list[str]:
        """The names of the classes in the order of their labels; their numbers if the dataset has no names."""
        names = (self.dataset.metadata_map or {}).get("y")
        return [str(name) for name in (range(self.num_classes) if names is None else names)]

    def domain_counts(self) -> torch.Tensor:
        """The number of images (n_groups,) of each domain that the run trains on."""
        domain = self.domains.metadata_to_group(self.splits["train"].metadata_array)
        return torch.bincount(domain, minlength=self.domains.n_groups)

    def train_shares(self) -> list[float]:
        """The groups' shares of the whole training split."""
        assert self.groups is not None
        train = self.dataset.split_array == self.dataset.split_dict["train"]
        group = self.groups.metadata_to_group(self.dataset.metadata_array[torch.as_tensor(train)])
        counts = torch.bincount(group, minlength=self.groups.n_groups)
        return (counts / counts.sum()).tolist()


def load_dataset(
    name: str, root_dir: str, download: bool = False, version: str | None = None, **kwargs: Any
) -> WILDSDataset:
    """The dataset `name` below `root_dir`, silently.

    Raises:
        UserError: it is missing, or its tables are invalid.
    """
    compat.repair()
    if not download and not Path(root_dir).is_dir():
        raise UserError(f"root_dir {root_dir} is not a folder{how(name, root_dir)}")
    try:
        # wilds prints notes on versions and warns of empty groups, which our reports leave out.
        quiet = contextlib.nullcontext() if download else contextlib.redirect_stdout(io.StringIO())
        with warnings.catch_warnings(), quiet:
            warnings.filterwarnings("ignore", message="Minimum metadata value")
            dataset = _constructor(name)(version=version, root_dir=root_dir, download=download, **kwargs)
            keep_limit()
            return _with_checked_labels(dataset)
    except UserError:
        raise
    except FileNotFoundError as error:
        if error.filename is not None:
            raise UserError(
                f"{name} below {root_dir} is incomplete: there is no {error.filename}{how(name, root_dir)}"
            ) from None
        raise UserError(f"{name} is not below {root_dir}{how(name, root_dir)}") from None
    except KeyError as error:
        raise UserError(f"a table of {name} below {root_dir} has no column {error}") from None
    except (AttributeError, ValueError, TypeError, AssertionError, OSError) as error:
        detail = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{name} below {root_dir} cannot be loaded: {detail}") from None


def _with_checked_labels(dataset: WILDSDataset) -> WILDSDataset:
    classes, labels = dataset.n_classes, dataset.y_array
    if wrong := [y for y in labels.unique().tolist() if y not in range(classes)] if classes is not None else []:
        raise UserError(
            f"{dataset.dataset_name} in {dataset.data_dir} has the label {wrong[0]}; accepted are 0 to {classes - 1}"
        )
    return dataset


def _constructor(name: str) -> Callable[..., WILDSDataset]:
    if name == "backgrounds":
        return IN9
    if name in own.names():
        return functools.partial(OwnDataset, own.read(name))
    return functools.partial(wilds.get_dataset, name)


def how(name: str, root_dir: str) -> str:
    """How to get a missing dataset, as the end of a sentence; empty if it is there."""
    advice = sentence("wilds", name, root_dir)
    return f"; {advice}" if advice else ""


def load_data(config: Config, pin_memory: bool = False) -> Data:
    """All splits of the dataset of `config`, with their loaders.

    Raises:
        UserError: as `load_dataset`; or a split is unknown, or groups or loaders do not fit the dataset.
    """
    dataset = load_dataset(
        config.dataset,
        config.root_dir,
        config.download,
        config.version,
        split_scheme=config.split_scheme,
        **config.dataset_kwargs,
    )
    evaluated = [s for s in dataset.split_dict if s != "train"] if config.eval_splits is None else config.eval_splits
    for split in evaluated:
        if split not in dataset.split_dict:
            raise UserError(
                f"{config.dataset} has no split {split!r}; accepted is one of {', '.join(dataset.split_dict)}"
            )
    splits: dict[str, ReadableSubset] = {}
    for split in dict.fromkeys(["train", "val", *evaluated]):
        transform = make_transform(
            config.transform,
            dataset.original_resolution,
            config.target_resolution,
            config.resize_scale,
            training=split == "train",
        )
        subset = dataset.get_subset(split, frac=config.frac)
        splits[split] = ReadableSubset(dataset, subset.indices, transform)
        if not len(subset):
            raise UserError(f"split {split} of {config.dataset} has no images (frac is {config.frac})")
    domains = grouper(dataset, config.groupby_fields)
    kwargs: dict[str, Any] = {"num_workers": min(4, os.cpu_count() or 1), "pin_memory": pin_memory}
    kwargs |= config.loader_kwargs
    try:
        loaders: dict[str, Loader] = {"train": _train_loader(config, splits["train"], domains, kwargs)}
        for split in list(splits)[1:]:
            # With a separate generator, evaluation does not change the random stream of training.
            loaders[split] = get_eval_loader(
                "standard", splits[split], config.batch_size, generator=torch.Generator(), **kwargs
            )
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"the loaders cannot be made: {' '.join(str(error).split())}") from None
    loaders = _from_cache(splits, loaders)
    groups = grouper(dataset, config.report_groups) if config.report_groups else None
    size = config.target_resolution or []  # given, if `adversarial` is
    challenge = Challenge(config.root_dir, size) if config.adversarial else None
    return Data(dataset, splits, loaders, domains, groups, challenge)


def grouper(dataset: WILDSDataset, fields: list[str]) -> CombinatorialGrouper:
    """The groups that the combinations of metadata `fields` form, silently.

    Raises:
        UserError: the dataset has no such field.
    """
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Minimum metadata value")
            return CombinatorialGrouper(dataset, fields)
    except ValueError:
        known = ", ".join(dataset.metadata_fields)
        raise UserError(f"groups are by {', '.join(fields)}; accepted are fields among {known}") from None


def _from_cache(splits: dict[str, ReadableSubset], loaders: dict[str, Loader]) -> dict[str, Loader]:
    """The loaders, by threads for each split whose images the cache can keep."""
    threaded: dict[str, Loader] = {}
    for name, split in splits.items():
        split.decoded = decoded_images(split.dataset, name, split.indices, split.transform)
        if split.decoded is not None:
            threaded[name] = ThreadedLoader(loaders[name], split)
    return loaders | threaded


def _train_loader(
    config: Config, train: WILDSSubset, domains: CombinatorialGrouper, kwargs: dict[str, Any]
) -> DataLoader:
    if config.images_per_class > 1:
        batches: Any = ClassMates(train.y_array, config.batch_size, config.images_per_class)
    else:
        batches = _wilds_loader(config, train, domains, kwargs).batch_sampler
    return DataLoader(train, batch_sampler=EpochBatches(batches), collate_fn=train.collate, **kwargs)


def _wilds_loader(
    config: Config, train: WILDSSubset, domains: CombinatorialGrouper, kwargs: dict[str, Any]
) -> DataLoader:
    return get_train_loader(
        config.train_loader,
        train,
        config.batch_size,
        uniform_over_groups=config.uniform_over_groups,
        grouper=domains,
        distinct_groups=config.distinct_groups,
        n_groups_per_batch=config.n_groups_per_batch,
        **kwargs,
    )
