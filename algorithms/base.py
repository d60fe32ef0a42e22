"""The base class of the methods: the contract between an objective and the adapters of the harnesses."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from cim_dg import hparams as spaces
from cim_dg.errors import UserError, warn
from cim_dg.images.colours import change_colours, draw_colours
from cim_dg.nn.pixels import PixelSpace


@dataclass(frozen=True)
class Batch:
    """The input of one step.

    Attributes:
        x: (N, C, H, W) images, with the harness' normalisation.
        y: (N,) class indices in [0, K), int64.
        domain: (N,) indices of the training domains, int64, or None if the method must not see domains.
    """

    x: Tensor
    y: Tensor
    domain: Tensor | None = None


@dataclass(frozen=True)
class Output:
    """The result of one forward pass.

    Attributes:
        logits: (N, K).
        terms: named scalars (0-d tensors). `loss` is the weighted sum to minimise; it alone carries a gradient.
    """

    logits: Tensor
    terms: dict[str, Tensor]

    @classmethod
    def of(cls, logits: Tensor, loss: Tensor, **diagnostics: Tensor) -> Output:
        """An output that minimises `loss` (0-d) and logs `diagnostics` (0-d each), which are detached."""
        return cls(logits, {"loss": loss, **{name: term.detach() for name, term in diagnostics.items()}})


class Algorithm(nn.Module):
    """A method: a featurizer, a classifier and an objective. It has no optimiser, no device and no harness.

    A subclass implements `objective`. One whose loss needs more than the features of the images (features of augmented
    copies, for example) implements `forward` instead. Methods can be put together from parts by inheritance: see
    `cim_dg.algorithms.cim.Morphing`.

    Args:
        featurizer: images (N, C, H, W) to features (N, F); its attribute `n_outputs` is F.
        make_classifier: F -> a module that maps (N, F) to logits (N, K).
        pixel_space: the normalisation of the harness' images.
        num_classes: K.
        num_domains: the number of training domains, or of groups if the harness' domain is the group.
        hparams: values of this method's hyper-parameters (see hparams/NAME.yaml); the others take their defaults.

    Raises:
        UserError: an unknown hyper-parameter, or a value of the wrong type or out of bounds.
    """

    name: ClassVar[str]
    """The name under which `register` has registered the class."""
    needs_domains: ClassVar[bool] = False
    """Whether the method cannot run without domain labels. WILDS, where domains may be the groups, gives them only
    then."""
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
        given = [featurizer]  # the networks of the harness

        def make(n_features: int) -> nn.Module:
            given.append(make_classifier(n_features))
            return given[-1]

        self.build(featurizer.n_outputs, make)  # type: ignore[arg-type]
        of_harness = {parameter for network in given for parameter in network.parameters()}
        self._parts = {name for name, parameter in self.named_parameters() if parameter not in of_harness}

    def build(self, n_features: int, make_classifier: Callable[[int], nn.Module]) -> None:
        """Create the modules besides the featurizer; the constructor calls it once, last.

        By default `self.classifier` is the harness' classifier on the features. A subclass with further modules
        calls `super().build(n_features, make_classifier)` first.
        """
        self.classifier = make_classifier(n_features)

    def parts(self) -> list[nn.Parameter]:
        """The parameters of what the method adds to the harness' featurizer and classifier."""
        return [parameter for name, parameter in self.named_parameters() if name in self._parts]

    def forward(self, batch: Batch) -> Output:
        """Logits (N, K) and terms in one pass, in training and in evaluation mode.

        It changes no step-dependent state. In evaluation mode the logits are those of the images themselves, also
        if `predict` averages over copies.
        """
        return self.objective(self.encode(batch.x), batch)

    def objective(self, features: Tensor, batch: Batch) -> Output:
        """Logits and terms from the features (N, F) of the batch's images, and from its labels and domains.

        Raises:
            NotImplementedError: the class has none. A method needs `objective`, or a `forward` of its own.
        """
        raise NotImplementedError(
            f"{type(self).__name__} has no objective(features, batch); every method needs one, or a forward(batch) of "
            "its own, and a part such as Morphing can only be put before a method with an objective"
        )

    def encode(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> the features (N, F) that `classify` takes."""
        return self.featurizer(x)

    def classify(self, features: Tensor) -> Tensor:
        """Features (N, F) -> logits (N, K)."""
        return self.classifier(features)

    def predict(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> logits (N, K); deterministic in evaluation mode.

        There the hyper-parameter `average_copies` averages the features over copies of the image in other colours,
        for every method whose prediction is `classify(encode(x))`.
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

        The colours come from a fixed seed and are the same for every image: the prediction for an image depends
        neither on its place in a batch nor on any random state.
        """
        pixels, copies = self.pixel_space.to_pixels(x), self.hparams["average_copies"]
        fixed = torch.Generator().manual_seed(0)
        parameters = draw_colours(copies, strength=self.hparams["average_strength"], generator=fixed)
        parameters = parameters.to(x, non_blocking=True)
        features = (
            self.encode(self.pixel_space.from_pixels(change_colours(pixels, colours.expand(len(x), -1)))).float()
            for colours in parameters
        )
        return functools.reduce(torch.add, features) / copies

    def domains(self, batch: Batch) -> Tensor:
        """The batch's domains (N,), for a method that needs them.

        Raises:
            UserError: the batch has none.
        """
        if batch.domain is None:
            raise UserError(
                f"{self.name} needs domain labels and the batch has none; run it with use_domains, or run a method "
                "that needs none"
            )
        return batch.domain

    def see_domain_counts(self, counts: Tensor) -> None:
        """Take note, before the first step, of the number of training images (num_domains,) of each domain.

        An adapter calls it where domains may be absent from training, as in WILDS. By default it does nothing.
        """

    def after_step(self) -> None:
        """Update step-dependent state (a warm-up, group weights). Call it after an optimising step, and only then.

        A subclass that updates state calls `super().after_step()` too, so that parts can be combined.
        """


REGISTRY: dict[str, type[Algorithm]] = {}
"""The registered methods by name. `methods` gives the same after it has loaded those of third parties."""

_Method = TypeVar("_Method", bound=type[Algorithm])


def register(name: str, hparams: str | Path | None = None) -> Callable[[_Method], _Method]:
    """A class decorator that registers an `Algorithm` under `name` for every harness.

    Args:
        name: the value of --algorithm.
        hparams: the YAML file of its hyper-parameters; by default NAME.yaml of this package's hparams/.

    Raises:
        UserError: the name is taken, or the YAML file is missing or invalid.
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
    """Every method by name, including those of other packages (entry points in the group cim_dg.algorithms).

    A package that cannot be loaded gives a warning.
    """
    for entry_point in entry_points(group="cim_dg.algorithms"):
        try:
            entry_point.load()
        except Exception as error:  # another package's error must not stop the harness
            warn(f"cim-dg: the algorithm {entry_point.name!r} cannot be loaded: {error}", stacklevel=2)
    return REGISTRY


def mean_over(values: Tensor, counts: Tensor) -> Tensor:
    """The mean of `values` over the places where `counts`, of the same shape, is true; 0 if there are none.

    It never waits for the device.
    """
    counts = counts.to(values.dtype)
    return (values * counts).sum() / counts.sum().clamp_min(1.0)


def matmul(a: Tensor, b: Tensor) -> Tensor:
    """`a @ b` in the precision of `a` and `b`, under autocast too."""
    with torch.autocast(a.device.type, enabled=False):
        return a @ b


def share(flags: Tensor) -> Tensor:
    """The share of true entries, a float32 scalar in [0, 1]."""
    return flags.to(torch.float32).mean()
