"""The shared part of all adapters: one optimising step of a method, its checks, and predictions.

An adapter only defines the harness' batches, optimiser and results; see docs/harnesses.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

from cim_dg.algorithms import Algorithm, Batch, Output
from cim_dg.errors import RunError
from cim_dg.harness.few_positives import FewPositives
from cim_dg.nn.networks import LARGEST_SMALL_SIDE

_Optimizer = TypeVar("_Optimizer", bound=Optimizer)


class TrainingStep:
    """Optimises a method batch by batch, and predicts with it.

    It is not a module: the method and its optimiser belong to the harness' own object, which saves and loads them.

    Args:
        method: the method, on any device.
        bf16: whether to train, evaluate and predict under autocast to bfloat16; hparams/common.yaml defines it.
        max_grad_norm: the norm to which gradients are clipped; None for no clipping.
    """

    def __init__(self, method: Algorithm, bf16: bool = False, max_grad_norm: float | None = None) -> None:
        self.method, self.bf16, self.max_grad_norm = method, bf16, max_grad_norm
        self.steps = 0
        self.few_positives = FewPositives(method.name)

    def __call__(self, batch: Batch, optimizer: Optimizer, where: str | None = None) -> tuple[Output, dict[str, float]]:
        """One step on `batch`; returns the method's output, and its terms as floats.

        Args:
            batch: the batch, on the method's device.
            optimizer: an optimiser of the method's parameters (see `with_parts`).
            where: the position in the run, for error messages; by default the number of steps so far.

        Raises:
            RunError: a term is not finite.
        """
        with self.autocast(batch.x):
            output = self.method(replace(batch, x=self.images(batch.x)))
        optimizer.zero_grad()
        output.terms["loss"].backward()
        if self.max_grad_norm is not None:
            clip_grad_norm_(self.method.parameters(), self.max_grad_norm)
        optimizer.step()
        self.method.after_step()
        # The only place that waits for the device.
        values = torch.stack([term.detach().float() for term in output.terms.values()]).tolist()
        terms = dict(zip(output.terms, values, strict=True))
        self.check(terms, where or f"step {self.steps}")
        self.steps += 1
        return output, terms

    def check(self, terms: Mapping[str, float], where: str) -> None:
        """Check the terms of a step; a harness that optimises by itself may pass only some.

        Raises:
            RunError: a term is not finite.
        """
        bad = [f"{name} is {value}" for name, value in terms.items() if not math.isfinite(value)]
        if bad:
            raise RunError(f"{self.method.name} stopped at {where}: {', '.join(bad)}")
        self.few_positives.see(terms.get("positives"))

    def predict(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> logits (N, K), float32."""
        with self.autocast(x):
            return self.method.predict(self.images(x)).float()

    def features(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> the features (N, F) that the method classifies, float32."""
        with self.autocast(x):
            return self.method.encode(self.images(x)).float()

    def autocast(self, x: Tensor) -> torch.autocast:
        """The context in which the method computes."""
        return torch.autocast(x.device.type, torch.bfloat16, enabled=self.bf16)

    def images(self, x: Tensor) -> Tensor:
        """The images in the faster memory format: in bf16 channels_last for small ones (measured in docs/bf16.md)."""
        if self.bf16 and max(x.shape[-2:]) <= LARGEST_SMALL_SIDE:
            return x.contiguous(memory_format=torch.channels_last)
        return x

    def state_dict(self) -> dict[str, Any]:
        """The state of a run besides the states of the method and the optimiser."""
        return {"steps": self.steps, "few_positives": self.few_positives.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the result of `state_dict`."""
        self.steps = state["steps"]
        self.few_positives.load_state_dict(state["few_positives"])


def with_parts(optimizer: _Optimizer, method: Algorithm) -> _Optimizer:
    """The optimiser of a method's parameters, with parameter groups of their own for the parts that the method adds.

    The hyper-parameters `parts_lr_factor` and `parts_decay` determine them. With their defaults, or in a method without
    them, nothing changes. Call it before a learning rate schedule is made.
    """
    factor = method.hparams.get("parts_lr_factor", 1.0)
    decays_all = method.hparams.get("parts_decay", "all") == "all"
    if factor == 1.0 and decays_all:
        return optimizer
    parts = set(method.parts())
    groups = []
    for group in optimizer.param_groups:
        own = [p for p in group["params"] if p not in parts]
        decaying = [p for p in group["params"] if p in parts and (decays_all or p.ndim > 1)]
        others = [p for p in group["params"] if p in parts and not (decays_all or p.ndim > 1)]
        of_parts = group | {"lr": group["lr"] * factor}
        groups += [group | {"params": own}, of_parts | {"params": decaying}]
        groups += [of_parts | {"params": others, "weight_decay": 0.0}]
    optimizer.param_groups[:] = [group for group in groups if group["params"]]
    return optimizer


def join_domains(images: Sequence[Tensor], labels: Sequence[Tensor]) -> Batch:
    """The batch from a harness' images (N_d, C, H, W) and labels (N_d,) of each training domain d."""
    domain = [torch.full_like(y, d) for d, y in enumerate(labels)]
    return Batch(torch.cat(list(images)), torch.cat(list(labels)), torch.cat(domain))
