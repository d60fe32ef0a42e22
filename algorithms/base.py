"""What a method is: the contract between the objectives and the harness adapters."""

from __future__ import annotations

import functools
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from cim_dg import hparams as spaces
from cim_dg.errors import UserError
from cim_dg.images.colours import change_colours, draw_colours
from cim_dg.nn.pixels import PixelSpace


@dataclass(frozen=True)
class Batch:
    """What a harness feeds in one step.

    Attributes:
        x: (N, C, H, W) images, normalised as the harness does it.
        y: (N,) class indices, int64.
        domain: (N,) indices of the training domains, int64, or None where the method is to see no domains.
    """

    x: Tensor
    y: Tensor
    domain: Tensor | None = None


@dataclass(frozen=True)
class Output:
    """What a method makes of a batch in one pass.

    Attributes:
        logits: (N, K).
        terms: named scalars (0-d tensors). `loss` is the weighted sum to minimise; only it carries a gradient.
    """

    logits: Tensor
    terms: dict[str, Tensor]

    @classmethod
    def of(cls, logits: Tensor, loss: Tensor, **diagnostics: Tensor) -> Output:
        """The output whose `loss` is to be minimised and whose other terms are only looked at."""
        return cls(logits, {"loss": loss, **{name: term.detach() for name, term in diagnostics.items()}})


class Algorithm(nn.Module, ABC):
    """A method: a featurizer, a classifier and an objective. No optimiser, no device, no harness.

    Args:
        featurizer: images to features (N, F); its attribute `n_outputs` is F.
        make_classifier: F -> a module that maps (N, F) to (N, K) logits.
        pixel_space: how the harness normalises its images.
        num_classes: K.
        num_domains: the number of training domains, or of groups where the harness' domain is the group.
        hparams: this method's hyper-parameters by name (see hparams/NAME.yaml); what is left out takes its default.

    Raises:
        UserError: an unknown hyper-parameter, or one of the wrong type or out of its bounds.
    """

    name: ClassVar[str]
    needs_domains: ClassVar[bool] = False
    """Whether it cannot do without domain labels: WILDS, whose domains may be the groups, gives them only then."""
    classifier: nn.Module

    def __init__(
        self,
        featurizer: nn.Module,
        make_classifier: Callable[[int], nn.Module],
        pixel_space: PixelSpace,
        num_classes: int,
        num_domains: int = 1,
        hparams: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.hparams = spaces.complete(self.name, hparams or {})
        self.featurizer = featurizer
        self.pixel_space = pixel_space
        self.num_classes = num_classes
        self.num_domains = num_domains
        self.build(featurizer.n_outputs, make_classifier)  # type: ignore[arg-type]

    @abstractmethod
    def build(self, n_features: int, make_classifier: Callable[[int], nn.Module]) -> None:
        """Create `self.classifier` and what there is beside `self.featurizer`; called once, by the constructor."""

    @abstractmethod
    def forward(self, batch: Batch) -> Output:
        """Logits and terms in one pass, in training and in evaluation mode. Moves no step-dependent state.

        In evaluation mode the logits are those of the images as they are, also where `predict` averages over copies.
        """

    def encode(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> the features (N, F) that `classify` takes."""
        return self.featurizer(x)

    def classify(self, features: Tensor) -> Tensor:
        """Features (N, F) -> logits (N, K)."""
        return self.classifier(features)

    def predict(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> logits (N, K); deterministic in evaluation mode, where it averages features if asked to.

        A method says by `encode` and `classify` what it predicts from, and `average_copies` then holds for it.
        """
        if self.training or not self.averages:
            return self.classify(self.encode(x))
        return self.classify(self._mean_features(x))

    @property
    def averages(self) -> bool:
        """Whether `predict` averages features in evaluation mode, and so differs from the logits of `forward`."""
        return self.hparams["average_copies"] > 0

    def _mean_features(self, x: Tensor) -> Tensor:
        """The mean features of M copies of each image in other colours (Foster et al. 2021, arXiv 2010.09515).

        The colours are drawn once, from a fixed seed, and are the same for every image: what is predicted of an image
        depends neither on its place in a batch nor on any random state.
        """
        pixels, copies = self.pixel_space.to_pixels(x), self.hparams["average_copies"]
        fixed = torch.Generator().manual_seed(0)
        drawn = draw_colours(copies, strength=self.hparams["average_strength"], generator=fixed).to(x)
        features = (
            self.encode(self.pixel_space.from_pixels(change_colours(pixels, colours.expand(len(x), -1)))).float()
            for colours in drawn
        )
        return functools.reduce(torch.add, features) / copies

    def domains(self, batch: Batch) -> Tensor:
        """The batch's domains (N,), for a method that cannot do without.

        Raises:
            UserError: the batch has none.
        """
        if batch.domain is None:
            raise UserError(
                f"{self.name} needs domain labels and the batch has none; run it with use_domains, or run a method "
                "that needs none"
            )
        return batch.domain

    def after_step(self) -> None:
        """Move step-dependent state (a warm-up, group weights). To be called after an optimising step, only then."""


REGISTRY: dict[str, type[Algorithm]] = {}
_Method = TypeVar("_Method", bound=type[Algorithm])


def register(name: str, hparams: str | Path | None = None) -> Callable[[_Method], _Method]:
    """Class decorator: make an `Algorithm` known, under `name`, to every harness.

    Args:
        name: what users type after --algorithm.
        hparams: the YAML file of its hyper-parameters; by default NAME.yaml among this package's own.

    Raises:
        UserError: the name is taken, or the YAML file is missing or not as it should be.
    """

    def decorate(method: _Method) -> _Method:
        if name in REGISTRY:
            raise UserError(f"algorithm {name!r} is registered already, as {REGISTRY[name].__qualname__}")
        spaces.register(name, hparams)
        method.name = name
        REGISTRY[name] = method
        return method

    return decorate


@functools.cache
def methods() -> dict[str, type[Algorithm]]:
    """Every method by name; third parties' too, which are found by entry points in the group cim_dg.algorithms."""
    for entry_point in entry_points(group="cim_dg.algorithms"):
        try:
            entry_point.load()
        except Exception as error:  # somebody else's code must not take the harness down
            warnings.warn(f"cim-dg: the algorithm {entry_point.name!r} cannot be loaded: {error}", stacklevel=2)
    return REGISTRY


def mean_over(values: Tensor, counts: Tensor) -> Tensor:
    """The mean of `values` (N,) over the rows where `counts` (N,) is true; 0 if there is none. Never synchronises."""
    counts = counts.to(values.dtype)
    return (values * counts).sum() / counts.sum().clamp_min(1.0)


def products(z: Tensor) -> Tensor:
    """(N, D) -> (N, N), the product of each two rows; under autocast too in the precision of `z`."""
    with torch.autocast(z.device.type, enabled=False):
        return z @ z.T


def share(flags: Tensor) -> Tensor:
    """The share of true entries, a scalar in [0, 1]."""
    return flags.to(torch.float32).mean()
