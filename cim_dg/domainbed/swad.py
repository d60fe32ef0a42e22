"""What the SWAD family (khanrc/swad, kakaobrain/miro and forks of theirs) has beside DomainBed's seams.

Their `train_all.py` averages whole algorithms (`domainbed.lib.swa_utils.AveragedModel`), transforms images in
`domainbed.datasets.set_transfroms`, and was written for NumPy before 1.24. The functions here are hooks (see
`cim_dg.autoload`); none of them changes what an algorithm of the harness' own computes.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from torch import Tensor

from cim_dg.harness.registration import is_ours, need
from cim_dg.nn.batch_norm import update_statistics
from cim_dg.runtime.checkpoint import preserved_randomness

BATCHES = 100  # over which an average's batch normalisation is estimated; the harness takes 500 for its own


def on_trainer(trainer: Any) -> None:
    """Give NumPy the name `np.int` that the trainer uses; it meant Python's int, and NumPy 1.24 dropped it."""
    if hasattr(trainer, "np") and "int" not in vars(trainer.np):
        trainer.np.int = int


def on_evaluator(evaluator: Any) -> None:
    """Before an average of one of our methods is evaluated, update its batch normalisation, the mask network's say.

    An average has averaged weights but the running statistics of one of its models. The harness updates them where
    nothing is frozen (`freeze_bn False`), and leaves them where its featurizer, frozen, has no use for it.
    """
    need(evaluator, "Evaluator")
    evaluate = evaluator.Evaluator.evaluate

    @functools.wraps(evaluate)
    def updated_evaluate(self: Any, algorithm: Any, *args: Any, **kwargs: Any) -> Any:
        averaged: Any = getattr(algorithm, "module", None)
        if is_ours(type(averaged)) and averaged.hparams.get("freeze_bn") is not False:
            with preserved_randomness():
                device = next(algorithm.parameters()).device
                update_statistics(algorithm, (x.to(device) for x in _training_images(evaluator, self)))
        return evaluate(self, algorithm, *args, **kwargs)

    evaluator.Evaluator.evaluate = updated_evaluate


def on_transforms(datasets: Any) -> None:
    """Feed our small images as they are, as the harness does with those of its own that have MNIST in their name."""
    need(datasets, "set_transfroms")
    set_transforms = datasets.set_transfroms

    @functools.wraps(set_transforms)
    def set_transfroms(dset: Any, data_type: str, hparams: Any, algorithm_class: Any = None) -> None:
        small = getattr(dset.underlying_dataset, "as_it_is", False)
        set_transforms(dset, "mnist" if small else data_type, hparams, algorithm_class)

    datasets.set_transfroms = set_transfroms


def is_package(datasets: ModuleType) -> bool:
    """Whether this `domainbed.datasets` is the family's: a package around `domainbed.datasets.datasets`."""
    return hasattr(datasets, "__path__")


def _training_images(module: Any, evaluator: Any) -> Iterator[Tensor]:
    """Images of the training domains, augmented as in training, from the loaders that the evaluator has."""
    per_domain = -(-BATCHES // len(evaluator.train_envs))
    for name, loader, _ in evaluator.eval_meta:
        domain, split = name[3:].split("_")  # env0_in
        if split == "in" and int(domain) in evaluator.train_envs:
            batches = module.FastDataLoader(**loader, shuffle=True) if isinstance(loader, dict) else loader
            yield from (batch["x"] for batch in itertools.islice(batches, per_domain))
