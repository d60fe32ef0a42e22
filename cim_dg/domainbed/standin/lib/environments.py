"""The splits of a data set's environments, and the loaders that a run trains and evaluates on."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from cim_dg.errors import UserError

from .fast_data_loader import FastDataLoader, InfiniteDataLoader
from .misc import Split, make_weights_for_balanced_classes, seed_hash, split_dataset

EVALUATION_BATCH_SIZE = 64

Weighted = tuple[Split, torch.Tensor | None]


@dataclass
class Splits:
    """`train` and `held_out` have a split per environment ("in" and "out"), with weights if classes are balanced;
    `adaptation` has, for those test environments that give one, a split whose images may be seen in training.
    """

    train: list[Weighted] = field(default_factory=list)
    held_out: list[Weighted] = field(default_factory=list)
    adaptation: list[Weighted] = field(default_factory=list)


def check_test_envs(test_envs: list[int], environments: list[str]) -> None:
    """Check the test environments.

    Raises:
        UserError: one is not in `environments` or is given twice, or no training environment is left.
    """
    count = len(environments)
    for env in test_envs:
        if not 0 <= env < count:
            names = ", ".join(f"{number} ({name})" for number, name in enumerate(environments))
            raise UserError(f"--test_envs has {env}; the environments are {names}")
    if len(set(test_envs)) != len(test_envs):
        raise UserError(f"--test_envs names an environment twice: {' '.join(map(str, test_envs))}")
    if len(test_envs) == count:
        raise UserError(f"--test_envs names all {count} environments, which leaves none to train on")


def split_environments(environments: Sequence[Any], args: Namespace, balanced: bool) -> Splits:
    """Split every one of `environments` (data sets of images) by `args.trial_seed`, as DomainBed does.

    Raises:
        UserError: a split would be empty, or the task is domain adaptation and there is no data for it.
    """
    splits = Splits()

    def weighted(split: Split) -> Weighted:
        return split, make_weights_for_balanced_classes(split) if balanced else None

    for env, images in enumerate(environments):
        seed = seed_hash(args.trial_seed, env)
        held_out, train = split_dataset(images, int(len(images) * args.holdout_fraction), seed)
        if env in args.test_envs:
            adaptation, train = split_dataset(train, int(len(train) * args.uda_holdout_fraction), seed)
            if len(adaptation):
                splits.adaptation.append(weighted(adaptation))
        if not len(held_out) or not len(train):
            raise UserError(
                f"environment {env} has {len(images)} images; a --holdout_fraction of {args.holdout_fraction} and an "
                f"--uda_holdout_fraction of {args.uda_holdout_fraction} leave none for one of its splits"
            )
        splits.train.append(weighted(train))
        splits.held_out.append(weighted(held_out))
    if args.task == "domain_adaptation" and not splits.adaptation:
        raise UserError("domain adaptation needs images of a test environment: give --uda_holdout_fraction")
    return splits


@dataclass
class Loaders:
    """`train` and `adaptation` yield steps, with a minibatch of each split; `evaluation` has a loader by split name."""

    train: InfiniteDataLoader
    adaptation: InfiniteDataLoader
    evaluation: dict[str, FastDataLoader]

    def state(self) -> dict[str, Any]:
        """The state of all loaders, as tensors and plain Python, between two steps and outside an evaluation."""
        return {
            "train": self.train.state(),
            "adaptation": self.adaptation.state(),
            "evaluation": {name: loader.state() for name, loader in self.evaluation.items()},
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Restore `state` in loaders that have not been used. This sets torch's global generator."""
        self.train.restore(state["train"])
        self.adaptation.restore(state["adaptation"])
        for name, loader in self.evaluation.items():
            loader.restore(state["evaluation"][name])


def make_loaders(splits: Splits, test_envs: list[int], batch_size: int, num_workers: int) -> Loaders:
    """The loaders of a run. They are created, and draw their first batches, in DomainBed's order.

    Raises:
        UserError: a training environment is smaller than a minibatch.
    """
    train = {env: split for env, split in enumerate(splits.train) if env not in test_envs}
    for env, (split, weights) in train.items():
        # A sampler without weights goes through the split once per pass and drops an incomplete last batch.
        if weights is None and len(split) < batch_size:
            raise UserError(
                f"environment {env} has {len(split)} images to train on, fewer than the batch size {batch_size}; "
                f"give --hparams '{{\"batch_size\": {len(split)}}}' or less"
            )
    for split, weights in splits.adaptation:
        if weights is None and len(split) < batch_size:
            raise UserError(
                f"an adaptation split has {len(split)} images, fewer than the batch size {batch_size}; give a larger "
                "--uda_holdout_fraction or a smaller batch size"
            )

    def endless(weighted: list[Weighted]) -> InfiniteDataLoader:
        return InfiniteDataLoader([s for s, _ in weighted], [w for _, w in weighted], batch_size, num_workers)

    training, adaptation = endless(list(train.values())), endless(splits.adaptation)
    evaluated = {f"env{env}_in": split for env, (split, _) in enumerate(splits.train)}
    evaluated |= {f"env{env}_out": split for env, (split, _) in enumerate(splits.held_out)}
    # Numbered by position among the adaptation splits, not by environment, as DomainBed names them.
    evaluated |= {f"env{number}_uda": split for number, (split, _) in enumerate(splits.adaptation)}
    evaluation = {name: FastDataLoader(split, EVALUATION_BATCH_SIZE, num_workers) for name, split in evaluated.items()}
    return Loaders(training, adaptation, evaluation)
