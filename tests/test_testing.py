"""The contract catches broken methods: for each of its tests, methods that fail it, and others that pass."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cim_dg.algorithms import ERM, REGISTRY, Algorithm, Batch, Output, register
from cim_dg.errors import UserError
from cim_dg.testing import MethodContract

HPARAMS = "weight: {help: of a term, type: float, default: 1.0, random: {uniform: [0, 2]}, bounds: [0, 2]}\n"
BROKEN: list[tuple[str, type[Algorithm], str]] = []


def breaks(test: str, message: str) -> Any:
    """Says which test of the contract the decorated method fails, and with what."""

    def add(method: type[Algorithm]) -> type[Algorithm]:
        BROKEN.append((test, method, message))
        return method

    return add


class Sound(ERM):
    """Passes all tests, and is what the broken ones change."""


def output_with(method: Algorithm, batch: Batch, **terms: Tensor) -> Output:
    output = ERM.objective(method, method.encode(batch.x), batch)  # type: ignore[arg-type]
    return Output(output.logits, output.terms | terms)


@breaks("test_logits_and_scalar_terms", r"term brightness has shape \(12,\)")
class TermOfEachImage(Sound):
    def forward(self, batch: Batch) -> Output:
        return output_with(self, batch, brightness=batch.x.mean(dim=(1, 2, 3)))


@breaks("test_logits_and_scalar_terms", r"no term 'loss'")
class NoLoss(Sound):
    def forward(self, batch: Batch) -> Output:
        output = output_with(self, batch)
        return Output(output.logits, {"supervised": output.terms["loss"]})


@breaks("test_logits_and_scalar_terms", r"see the term supervised")
class TermWithGradient(Sound):
    def forward(self, batch: Batch) -> Output:
        output = output_with(self, batch)
        return Output(output.logits, output.terms | {"supervised": output.terms["loss"]})


@breaks("test_logits_and_scalar_terms", r"logits are \(12, 1\)")
class OneLogit(Sound):
    def classify(self, features: Tensor) -> Tensor:
        return super().classify(features)[:, :1]

    def objective(self, features: Tensor, batch: Batch) -> Output:
        logits = self.classify(features)
        return Output.of(logits, logits.mean())


@breaks("test_images_of_other_sizes", r"index 2 is out of bounds")
class ThreeChannels(Sound):
    def encode(self, x: Tensor) -> Tensor:
        return super().encode(x * (1 + x[:, [2]]))


@breaks("test_batches_of_one_class_and_of_few_images", r"term loss is nan")
class MeanOfNothing(Sound):
    def objective(self, features: Tensor, batch: Batch) -> Output:
        logits = self.classify(features)
        losses = F.cross_entropy(logits, batch.y, reduction="none")
        return Output.of(logits, losses[batch.y == 0].mean() + losses[batch.y > 0].mean())


@breaks("test_gradients_are_finite", r"gradient of .* is not finite")
class RootOfZero(Sound):
    def objective(self, features: Tensor, batch: Batch) -> Output:
        logits = self.classify(features)
        return Output.of(logits, F.cross_entropy(logits, batch.y) + (logits - logits).square().sum().sqrt())


@breaks("test_gradients_are_finite", r"projection.weight no gradient")
class UnusedLayer(Sound):
    def build(self, n_features: int, make_classifier: Any) -> None:
        super().build(n_features, make_classifier)
        self.projection = nn.Linear(n_features, 2)


@breaks("test_gradients_are_finite", r"every gradient is 0")
class ConstantLoss(Sound):
    def objective(self, features: Tensor, batch: Batch) -> Output:
        logits = self.classify(features)
        return Output.of(logits, 0.0 * F.cross_entropy(logits, batch.y))


@breaks("test_the_batch_is_not_changed", r"batch.x is changed")
class InPlace(Sound):
    def encode(self, x: Tensor) -> Tensor:
        return super().encode(x.mul_(0.5))


@breaks("test_state_dict_round_trip", r"trains differently")
class ForgottenWarmUp(Sound):
    """Its step is a number, which no checkpoint holds."""

    step = 0

    def objective(self, features: Tensor, batch: Batch) -> Output:
        logits = self.classify(features)
        return Output.of(logits, F.cross_entropy(logits, batch.y) * min(1, (self.step + 1) / 4))

    def after_step(self) -> None:
        self.step += 1


@breaks("test_state_dict_round_trip", r"predicts something else")
class ForgottenScale(Sound):
    """It predicts with a tensor that is not a buffer."""

    def build(self, n_features: int, make_classifier: Any) -> None:
        super().build(n_features, make_classifier)
        self.scale = torch.rand(())

    def classify(self, features: Tensor) -> Tensor:
        return self.scale * super().classify(features)


@breaks("test_evaluation_is_deterministic_and_changes_nothing", r"two passes differ")
class DropoutAlways(Sound):
    def classify(self, features: Tensor) -> Tensor:
        return super().classify(F.dropout(features))


@breaks("test_evaluation_is_deterministic_and_changes_nothing", r"global random generator")
class DrawsInEvaluation(Sound):
    def objective(self, features: Tensor, batch: Batch) -> Output:
        random.random()
        return super().objective(features, batch)


@breaks("test_evaluation_is_deterministic_and_changes_nothing", r"evaluation changes passes")
class CountsEvaluations(Sound):
    passes: Tensor

    def build(self, n_features: int, make_classifier: Any) -> None:
        super().build(n_features, make_classifier)
        self.register_buffer("passes", torch.zeros(()))

    def objective(self, features: Tensor, batch: Batch) -> Output:
        self.passes += 1
        return super().objective(features, batch)


@breaks("test_evaluation_is_deterministic_and_changes_nothing", r"predict does not give")
class PredictsSomethingElse(Sound):
    def predict(self, x: Tensor) -> Tensor:
        return super().predict(x.flip(-1))


@breaks("test_evaluation_is_deterministic_and_changes_nothing", r"differ under torch.no_grad")
class DifferentiatesInEvaluation(Sound):
    def objective(self, features: Tensor, batch: Batch) -> Output:
        output = super().objective(features, batch)
        return Output(output.logits, output.terms | {"graph": torch.tensor(float(features.requires_grad))})


@breaks("test_predictions_are_of_single_images", r"depend on the batch")
class CentredByTheBatch(Sound):
    def encode(self, x: Tensor) -> Tensor:
        return super().encode(x - x.mean(dim=0))


@breaks("test_domain_labels_are_optional_or_asked_for", r"'?NoneType'?|must be Tensor")
class UsesDomainsSilently(Sound):
    def objective(self, features: Tensor, batch: Batch) -> Output:
        output = super().objective(features, batch)
        weight = F.one_hot(batch.domain, self.num_domains).float().mean()  # type: ignore[arg-type]
        return Output.of(output.logits, weight * output.terms["loss"])


@breaks("test_domain_labels_are_optional_or_asked_for", r"is no UserError")
class NeedsNoDomainsAfterAll(Sound):
    needs_domains = True


@breaks("test_bf16_autocast", r"dtypes? match")
class OneType(Sound):
    def objective(self, features: Tensor, batch: Batch) -> Output:
        logits = torch.zeros(len(features), self.num_classes)
        logits[torch.arange(len(features))] = self.classify(features)
        return Output.of(logits, F.cross_entropy(logits, batch.y))


@breaks("test_bf16_autocast", r"loss is torch.bfloat16")
class SumsInBf16(Sound):
    def objective(self, features: Tensor, batch: Batch) -> Output:
        logits = self.classify(features)
        losses = F.cross_entropy(logits, batch.y, reduction="none")
        return Output.of(logits, losses @ torch.full_like(losses, 1 / len(losses)))


@breaks("test_bf16_autocast", r"loss differ by")
class Cancels(Sound):
    def objective(self, features: Tensor, batch: Batch) -> Output:
        logits = self.classify(features)
        # Around 100,000, bf16 has steps of 512.
        return Output.of(logits, F.cross_entropy(100_000.0 + 100 * logits, batch.y))


@breaks("test_a_training_step_never_waits_for_the_device", r"_local_scalar_dense.* makes Python wait")
class ReadsAValue(Sound):
    def objective(self, features: Tensor, batch: Batch) -> Output:
        output = super().objective(features, batch)
        return Output.of(output.logits, output.terms["loss"], last=torch.full((), output.terms["loss"].item()))


@breaks("test_a_training_step_never_waits_for_the_device", r"mask selects")
class SelectsByMask(Sound):
    def objective(self, features: Tensor, batch: Batch) -> Output:
        logits = self.classify(features)
        return Output.of(logits, F.cross_entropy(logits[batch.y >= 0], batch.y))


@breaks("test_a_training_step_never_waits_for_the_device", r"makes Python wait")
class WaitsAfterTheStep(Sound):
    def after_step(self) -> None:
        if self.classifier.weight.sum() > 1e9:  # type: ignore[operator]
            self.classifier.reset_parameters()  # type: ignore[operator]


@breaks("test_a_training_step_never_waits_for_the_device", r"mixes tensors")
class StaysOnTheCPU(Sound):
    """Its tensor is not a buffer, and does not follow the method to the GPU."""

    def build(self, n_features: int, make_classifier: Any) -> None:
        super().build(n_features, make_classifier)
        self.ones = torch.ones(self.num_classes)

    def classify(self, features: Tensor) -> Tensor:
        return super().classify(features) * self.ones


@breaks("test_hparams_are_within_their_bounds", r"accepted is a number of at least 0 and at most 2")
class RandomBeyondItsBounds(Sound):
    entries = "weight: {help: of a term, type: float, default: 1.0, random: {uniform: [0, 3]}, bounds: [0, 2]}\n"


@breaks("test_hparams_are_within_their_bounds", r"has no help")
class NoHelp(Sound):
    entries = "weight: {help: '', type: float, default: 1.0}\n"


@breaks("test_random_hparams_train", r"term loss is nan")
class LogOfItsWeight(Sound):
    entries = "weight: {help: of a term, type: float, default: 1.0, random: {uniform: [-2, -1]}}\n"

    def objective(self, features: Tensor, batch: Batch) -> Output:
        output = super().objective(features, batch)
        return Output.of(output.logits, output.terms["loss"] + torch.tensor(self.hparams["weight"]).log())


@breaks("test_an_unknown_hyper_parameter_is_refused", r"is accepted")
class TakesAnything(Sound):
    def __init__(self, *arguments: Any) -> None:
        *others, hparams = arguments
        known = {name: value for name, value in hparams.items() if name != "no_such_option"}
        super().__init__(*others, known)  # type: ignore[call-arg]


@pytest.fixture
def contract(tmp_path: Path) -> Iterator[Any]:
    """Gives the contract of an unregistered method; the registry is restored afterwards."""
    registered = dict(REGISTRY)

    def of(method: type[Algorithm]) -> MethodContract:
        name = f"Test{method.__name__}"
        file = tmp_path / f"{name}.yaml"
        file.write_text(getattr(method, "entries", HPARAMS))
        register(name, hparams=file)(method)
        return type("Contract", (MethodContract,), {"name": name})()

    yield of
    REGISTRY.clear()
    REGISTRY.update(registered)


TESTS = [name for name in vars(MethodContract) if name.startswith("test_")]


@pytest.mark.parametrize("test", TESTS)
def test_a_sound_method_passes(contract: Any, test: str) -> None:
    getattr(contract(Sound), test)()


@pytest.mark.parametrize(("test", "method", "message"), BROKEN, ids=[method.__name__ for _, method, _ in BROKEN])
def test_a_broken_method_is_caught(contract: Any, test: str, method: type[Algorithm], message: str) -> None:
    with pytest.raises(Exception, match=message):
        getattr(contract(method), test)()


def test_every_test_of_the_contract_is_seen_to_fail() -> None:
    assert {test for test, _, _ in BROKEN} == set(TESTS)


def test_an_unregistered_name_is_said_to_be_one() -> None:
    with pytest.raises(UserError, match="no method 'Nobody' is registered"):
        type("Contract", (MethodContract,), {"name": "Nobody"})().make()
