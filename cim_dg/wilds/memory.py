"""The GPU memory that a run of `cim-dg wilds train` needs."""

from __future__ import annotations

import argparse
import functools

import torch
from torch import Tensor

from cim_dg.algorithms import Batch, methods
from cim_dg.harness.memory import training_gib
from cim_dg.wilds.models import make_featurizer
from cim_dg.wilds.run import LateParser, add_parser, config_of
from cim_dg.wilds.transforms import pixel_space

CLASSES, DOMAINS, SIDES = 200, 4, [224, 224]
EFFICIENTNET_GIB = 8.0


@functools.lru_cache(maxsize=256)
def gib(arguments: tuple[str, ...]) -> float:
    """The estimate in GiB for a run with these arguments (`train` and its options)."""
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers(parser_class=LateParser))
    config = config_of(parser.parse_args(arguments[1:]))
    kwargs = config.model_kwargs if config.model == "small-cnn" else {**config.model_kwargs, "pretrained": False}
    if config.model == "efficientnet_lite0":  # which has no random weights
        return EFFICIENTNET_GIB
    featurizer, _ = make_featurizer(config.model, kwargs, None, standardize=config.transform == "rxrx1")
    space = pixel_space(config.transform)
    method = methods()[config.algorithm](
        featurizer,
        lambda n_features: torch.nn.Linear(n_features, CLASSES),
        space,
        CLASSES,
        DOMAINS,
        config.hparams,
    )
    sides = config.target_resolution or SIDES

    def step(images: int) -> Tensor:
        numbers = torch.arange(images)
        return method(Batch(torch.rand(images, 3, *sides), numbers % 2, numbers % DOMAINS)).terms["loss"]

    return training_gib(method, step, config.batch_size)
