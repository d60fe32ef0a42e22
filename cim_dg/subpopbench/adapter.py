"""Our methods as algorithms of SubpopBench, with its featurizers, classifiers and SGD."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from torch import Tensor

from cim_dg.algorithms import Algorithm, Batch
from cim_dg.errors import UserError
from cim_dg.harness.domains import claims_domains
from cim_dg.harness.registration import split_hparams, without_bf16
from cim_dg.harness.step import TrainingStep, with_parts
from cim_dg.nn.pixels import PixelSpace

# The names that `subpopbench.train` adds to the hyper-parameters of its registry.
ADDED = ("image_arch", "text_arch", "steps", *(f"cmnist_{what}_prob" for what in ("label", "attr", "spur", "flip")))


def make_adapter(method: type[Algorithm], algorithms: ModuleType) -> type:
    """`method` as a class of `subpopbench.learning.algorithms`, under the method's name."""
    base: Any = algorithms.Algorithm

    class Adapter(base):
        __cim_dg__ = True
        __doc__ = method.__doc__

        def __init__(
            self,
            data_type: str,
            input_shape: tuple[int, ...],
            num_classes: int,
            num_attributes: int,
            num_examples: int,
            hparams: dict[str, Any],
            grp_sizes: list[int] | None = None,
        ) -> None:
            # Imported here: at this point the harness has loaded them, and our hooks have extended them.
            from subpopbench import hparams_registry
            from subpopbench.learning.optimizers import get_optimizers
            from subpopbench.models import networks

            super().__init__(data_type, input_shape, num_classes, num_attributes, num_examples, hparams, grp_sizes)
            if data_type != "images" or len(input_shape) != 3:
                raise UserError(f"{method.name} takes images; this dataset is {data_type} of shape {input_shape}")
            harness = {*hparams_registry.default_hparams(method.name, "Waterbirds"), *ADDED}
            common, own = split_hparams(method.name, hparams, harness)
            featurizer = networks.Featurizer(data_type, input_shape, without_bf16(self.hparams))
            self.method = method(
                featurizer,
                lambda n_features: networks.Classifier(n_features, num_classes, hparams["nonlinear_classifier"]),
                PixelSpace.of(common["pixel_space"], input_shape[0]),
                num_classes,
                num_attributes,
                own,
            )
            # Attributes form the groups that accuracy is reported for, so only methods that claim them get them.
            self._sees_attributes = claims_domains(self.method)
            if self._sees_attributes and num_attributes < 2:
                raise UserError(f"{method.name} with these hyper-parameters needs attributes; use --train_attr yes")
            optimizer = get_optimizers["sgd"](self.method, hparams["lr"], hparams["weight_decay"])
            self.optimizer = with_parts(optimizer, self.method)
            self._step = TrainingStep(self.method, common["bf16"])

        def update(self, minibatch: tuple[Tensor, Tensor, Tensor, Tensor], step: int) -> dict[str, float]:
            """One optimising step on (indices, images, labels, attributes); returns every term as a float."""
            _, x, y, a = minibatch
            return self._step(Batch(x, y, a if self._sees_attributes else None), self.optimizer, f"step {step}")[1]

        def return_feats(self, x: Tensor) -> Tensor:
            """(N, C, H, W) -> features (N, F)."""
            return self._step.features(x)

        def predict(self, x: Tensor) -> Tensor:
            """(N, C, H, W) -> logits (N, K), float32."""
            return self._step.predict(x)

    # Pickle finds a class by these names, under which the plugin registers it.
    Adapter.__module__, Adapter.__name__, Adapter.__qualname__ = algorithms.__name__, method.name, method.name
    return Adapter
