"""The registry of algorithms: each class in this module is one. It has none of its own (see the package)."""

from __future__ import annotations

from typing import Any

import torch

from cim_dg.errors import UserError

ALGORITHMS = ["ERM", "GroupDRO"]
"""What a sweep runs if --algorithms is not given, and the first rows of every table."""

Minibatch = tuple[torch.Tensor, torch.Tensor]


class Algorithm(torch.nn.Module):
    """A way to train a classifier on several domains.

    Its arguments are the shape of an image (C, H, W), the number of classes, the number of training domains and the
    hyper-parameters.
    """

    def __init__(
        self, input_shape: tuple[int, ...], num_classes: int, num_domains: int, hparams: dict[str, Any]
    ) -> None:
        super().__init__()
        self.hparams = hparams

    def update(self, minibatches: list[Minibatch], unlabeled: list[torch.Tensor] | None = None) -> dict[str, float]:
        """Take one step on a minibatch (x, y) of every training domain; returns named values for results.jsonl.

        For domain adaptation, `unlabeled` has a minibatch of images of every test domain.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no update()")

    def predict(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (N, K) of images (N, C, H, W)."""
        raise NotImplementedError(f"{type(self).__name__} defines no predict()")


def get_algorithm_class(algorithm_name: str) -> type[Algorithm]:
    """The algorithm of that name.

    Raises:
        UserError: there is none. The message lists the known names.
    """
    known = {
        name: value
        for name, value in globals().items()
        if isinstance(value, type) and issubclass(value, Algorithm) and value is not Algorithm
    }
    if algorithm_name not in known:
        raise UserError(
            f"there is no algorithm {algorithm_name!r}; this stand-in for DomainBed has {', '.join(sorted(known))}, "
            "and a clone of DomainBed has its own too: start this in one"
        )
    return known[algorithm_name]
