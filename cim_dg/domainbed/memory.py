"""The GPU memory that a job of the stand-in needs."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import torch

from cim_dg.harness.memory import gib_line

CLASSES = 10
ENOUGH = 2
"""The number of environments in the estimate; images of more take no more memory."""


def gib(arguments: Sequence[str]) -> float:
    """The estimate in GiB for a job with these arguments of `train`, from its method, batch and images."""
    train = import_module("domainbed.scripts.train")
    args = train.parse_args(arguments)
    datasets = import_module("domainbed.datasets")
    dataset = datasets.get_dataset_class(args.dataset)
    environments = max(1, len(dataset.ENVIRONMENTS) - len(args.test_envs))
    images = train.choose_hparams(args)["batch_size"] * environments
    base, per_image = _line(args.algorithm, args.dataset, min(environments, ENOUGH), args.hparams)
    return base + per_image * images


@functools.lru_cache(maxsize=256)
def _line(algorithm: str, dataset: str, environments: int, hparams: str | None) -> tuple[float, float]:
    """The GiB without images and per image, the same for all jobs with the same network."""
    train, algorithms = import_module("domainbed.scripts.train"), import_module("domainbed.algorithms")
    chosen = argparse.Namespace(algorithm=algorithm, dataset=dataset, hparams_seed=0, trial_seed=0, hparams=hparams)
    values = train.choose_hparams(chosen)
    shape = _shape(dataset, values)
    model = algorithms.get_algorithm_class(algorithm)(shape, CLASSES, environments, values)
    model.train()

    def step(images: int) -> Any:
        labels = torch.arange(images) % 2
        return model.update([(torch.rand(images, *shape), labels)] * environments)

    base, of_each_environment = gib_line(model, step)
    return base, of_each_environment / environments


def _shape(dataset: str, hparams: Mapping[str, Any]) -> tuple[int, ...]:
    datasets = import_module("domainbed.datasets")
    kind = datasets.get_dataset_class(dataset)
    if hasattr(kind, "shape_for"):
        return kind.shape_for(hparams)
    photographs = issubclass(kind, datasets.MultipleEnvironmentImageFolder)
    return kind.INPUT_SHAPE or ((3, 224, 224) if photographs else (3, 28, 28))
