"""Optimisers and schedules by their names in WILDS' examples."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer, lr_scheduler

from cim_dg.errors import UserError
from cim_dg.wilds.config import Config


def make_optimizer(config: Config, parameters: Iterable[nn.Parameter]) -> Optimizer:
    """SGD, Adam or AdamW of PyTorch over `parameters`.

    Raises:
        UserError: an argument in `optimizer_kwargs` or `scheduler_kwargs` that the optimiser or the schedule does not
            take, when it is made or in its first steps.
    """
    constructor = {"SGD": torch.optim.SGD, "Adam": torch.optim.Adam, "AdamW": torch.optim.AdamW}[config.optimizer]
    kwargs: dict[str, Any] = {"lr": config.lr, "weight_decay": config.weight_decay, **config.optimizer_kwargs}
    with _readable("optimizer_kwargs", config.optimizer):
        weight = nn.Parameter(torch.ones(1))
        weight.grad = torch.ones(1)
        tried = constructor([weight], **kwargs)
    schedule = Schedule(config, tried, n_steps=3)
    with _readable("optimizer_kwargs", config.optimizer):
        for _ in range(2):  # momentum acts in the second step
            tried.step()
    schedule.try_out()
    return constructor(parameters, **kwargs)


@contextlib.contextmanager
def _readable(name: str, owner: str | None) -> Iterator[None]:
    """Whatever wrong arguments raise, as a UserError."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # arguments of any type can raise anything
        raise UserError(f"{name} does not fit {owner}: {' '.join(str(error).split())}") from None


class Schedule:
    """A learning rate schedule, stepped after every batch or every epoch, as in WILDS.

    Args:
        config: with `scheduler`, `scheduler_kwargs` and `scheduler_metric_name`.
        optimizer: the optimiser whose learning rates it sets.
        n_steps: optimising steps of the whole run.

    Raises:
        UserError: `scheduler_kwargs` has an argument that the schedule does not accept, or ReduceLROnPlateau has no
            metric.
    """

    def __init__(self, config: Config, optimizer: Optimizer, n_steps: int) -> None:
        self.metric = config.scheduler_metric_name
        self.by_step = config.scheduler in ("linear_schedule_with_warmup", "cosine_schedule_with_warmup")
        self.by_metric = config.scheduler == "ReduceLROnPlateau"
        if self.by_metric and self.metric is None:
            raise UserError("scheduler ReduceLROnPlateau needs scheduler_metric_name, a column of val_eval.csv")
        constructors: dict[str | None, Callable[..., Any]] = {
            "linear_schedule_with_warmup": lambda **k: _warmup(optimizer, n_steps, lambda done: 1 - done, **k),
            "cosine_schedule_with_warmup": lambda **k: _warmup(optimizer, n_steps, _half_cosine, **k),
            "ReduceLROnPlateau": lambda **k: lr_scheduler.ReduceLROnPlateau(optimizer, **k),
            "StepLR": lambda **k: lr_scheduler.StepLR(optimizer, **k),
            "MultiStepLR": lambda **k: lr_scheduler.MultiStepLR(optimizer, **k),
            None: lambda **k: lr_scheduler.ConstantLR(optimizer, factor=1.0, **k),
        }
        self.name = config.scheduler
        with _readable("scheduler_kwargs", self.name):
            self.scheduler = constructors[config.scheduler](**config.scheduler_kwargs)

    def try_out(self) -> None:
        """Take two steps.

        Raises:
            UserError: that fails, or gives a learning rate that is none.
        """
        with _readable("scheduler_kwargs", self.name):
            for _ in range(2):
                self.scheduler.step(*([1.0] if self.by_metric else []))
                for group in self.scheduler.optimizer.param_groups:
                    if not 0 <= group["lr"] < math.inf:
                        raise UserError(f"scheduler_kwargs of {self.name} give the learning rate {group['lr']}")

    def after_batch(self) -> None:
        """Call it after each optimising step."""
        if self.by_step:
            self.scheduler.step()

    def after_epoch(self, validation: dict[str, Any]) -> None:
        """Call it after the validation of each epoch, with the figures by name.

        Raises:
            UserError: `scheduler_metric_name` is not among them.
        """
        if self.by_metric:
            if self.metric not in validation:
                names = ", ".join(validation)
                raise UserError(f"scheduler_metric_name is {self.metric!r}; accepted is one of {names}")
            self.scheduler.step(validation[self.metric])
        elif not self.by_step:
            self.scheduler.step()


def _warmup(
    optimizer: Optimizer, n_steps: int, fall: Callable[[float], float], num_warmup_steps: int = 0
) -> lr_scheduler.LambdaLR:
    """Rise from 0 to the full rate in `num_warmup_steps`, then follow `fall` down to 0 at the last of `n_steps`."""

    def factor(step: int) -> float:
        if step < num_warmup_steps:
            return step / num_warmup_steps
        return max(0.0, fall((step - num_warmup_steps) / max(1, n_steps - num_warmup_steps)))

    return lr_scheduler.LambdaLR(optimizer, factor)


def _half_cosine(done: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
