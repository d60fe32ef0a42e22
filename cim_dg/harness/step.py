"""What every harness does alike with a method of ours: one optimising step, its checks, and predictions.

An adapter says how its harness feeds a batch, which optimiser it uses and where it looks for the results; see
docs/harnesses.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

from cim_dg.algorithms import Algorithm, Batch, Output
from cim_dg.errors import RunError
from cim_dg.harness.few_positives import FewPositives


class TrainingStep:
    """Optimises a method, a batch at a time, and predicts with it.

    Not a module: the method and its optimiser stay parts of the harness' own object, which saves and loads them.

    Args:
        method: on any device.
        bf16: whether to autocast to bfloat16.
        max_grad_norm: the norm that gradients are clipped to, None for no clipping.
    """

    def __init__(self, method: Algorithm, bf16: bool = False, max_grad_norm: float | None = None) -> None:
        self.method, self.bf16, self.max_grad_norm = method, bf16, max_grad_norm
        self.steps = 0
        self.few_positives = FewPositives(method.name)

    def __call__(self, batch: Batch, optimizer: Optimizer, where: str | None = None) -> tuple[Output, dict[str, float]]:
        """One step on `batch`; returns what the method gave, and its terms as floats.

        Args:
            batch: on the method's device.
            optimizer: over `parameter_groups(method)`.
            where: where the run is, for the message of an error; by default the number of steps so far.

        Raises:
            RunError: a term is not finite.
        """
        with self.autocast(batch.x):
            output = self.method(batch)
        optimizer.zero_grad()
        output.terms["loss"].backward()
        if self.max_grad_norm is not None:
            clip_grad_norm_(self.method.parameters(), self.max_grad_norm)
        optimizer.step()
        self.method.after_step()
        # The one place that waits for the device.
        values = torch.stack([term.detach().float() for term in output.terms.values()]).tolist()
        terms = dict(zip(output.terms, values, strict=True))
        self.check(terms, where or f"step {self.steps}")
        self.steps += 1
        return output, terms

    def check(self, terms: Mapping[str, float], where: str) -> None:
        """Look at the terms of a step, of which a harness that optimises by itself may give only some.

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
            return self.method.predict(x).float()

    def features(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> the features (N, F) that the method classifies, float32."""
        with self.autocast(x):
            return self.method.encode(x).float()

    def autocast(self, x: Tensor) -> torch.autocast:
        """The context in which the method computes."""
        return torch.autocast(x.device.type, torch.bfloat16, enabled=self.bf16)

    def state_dict(self) -> dict[str, Any]:
        """What a run goes on with, beside the states of the method and of the optimiser."""
        return {"steps": self.steps, "few_positives": self.few_positives.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self.steps = state["steps"]
        self.few_positives.load_state_dict(state["few_positives"])


def parameter_groups(method: Algorithm) -> Iterable[nn.Parameter]:
    """What an optimiser of the method is constructed with, whatever the harness."""
    return method.parameters()


def join_domains(images: Sequence[Tensor], labels: Sequence[Tensor]) -> Batch:
    """The batch of a harness that feeds images (N_d, C, H, W) and labels (N_d,) of each training domain d."""
    domain = [torch.full_like(y, d) for d, y in enumerate(labels)]
    return Batch(torch.cat(list(images)), torch.cat(list(labels)), torch.cat(domain))
