"""The contract that every method meets, as a test class; it needs pytest only when pytest runs it.

A package tests its own method in three lines::

    from cim_dg.testing import MethodContract

    class TestMyMethod(MethodContract):
        name = "MyMethod"

Each test builds the method on a small featurizer, on the CPU, with noise images. `hparams = {...}` in the class sets
options of the method.
"""

from __future__ import annotations

import copy
import io
import json
import random
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from cim_dg import hparams as spaces
from cim_dg.algorithms import Algorithm, Batch, methods
from cim_dg.errors import UserError
from cim_dg.nn.networks import SmallCNN
from cim_dg.nn.pixels import PixelSpace
from cim_dg.runtime.device_waits import NoWaiting

__all__ = ["MethodContract"]

BF16_TOLERANCE = 0.05
"""Absolute for values around 1, relative for larger ones: bf16 has 8 bits of precision, 0.4%, and errors add up."""


class MethodContract:
    """The tests of one registered method; a subclass whose name starts with `Test` names it.

    Attributes:
        name: the method's registered name.
        hparams: hyper-parameters for all tests, if the defaults should not be tested.
    """

    name: ClassVar[str]
    hparams: ClassVar[Mapping[str, Any]] = {}

    num_classes, num_domains = 4, 3

    def make(self, channels: int = 3, seed: int = 0, **hparams: Any) -> Algorithm:
        """The method on a `SmallCNN` of width 8 with a linear classifier, in training mode.

        Raises:
            UserError: no such method is registered, or a hyper-parameter is not accepted.
        """
        if self.name not in methods():
            raise UserError(f"no method {self.name!r} is registered; install its package, or import it in the test")
        torch.manual_seed(seed)
        return methods()[self.name](
            SmallCNN(channels, width=8),
            lambda n_features: nn.Linear(n_features, self.num_classes),
            PixelSpace.of("unit", channels),
            self.num_classes,
            self.num_domains,
            {**self.hparams, **hparams},
        )

    def batch(self, size: tuple[int, int, int] = (3, 20, 24), seed: int = 1) -> Batch:
        """12 images (C, H, W) in [0, 1] of noise, three of each class and four of each domain."""
        generator = torch.Generator().manual_seed(seed)
        number = torch.arange(12)
        return Batch(torch.rand(12, *size, generator=generator), number % self.num_classes, number // 4)

    def test_logits_and_scalar_terms(self) -> None:
        """Logits are (N, K) and finite; terms are finite scalars, of which `loss` alone has a gradient."""
        method, batch = self.make(), self.batch()
        for training in (True, False):
            output = method.train(training)(batch)
            assert output.logits.shape == (len(batch.x), self.num_classes), f"logits are {tuple(output.logits.shape)}"
            assert torch.isfinite(output.logits).all(), "logits are not finite"
            _check_terms(output.terms)

    def test_images_of_other_sizes(self) -> None:
        """One channel and two (ColoredMNIST has two), a square and odd sides."""
        for size in ((1, 16, 16), (2, 28, 28), (3, 33, 19)):
            method, batch = self.make(size[0]), self.batch(size)
            output = method(batch)
            _check_terms(output.terms)
            predicted = method.eval().predict(batch.x)
            assert predicted.shape == (len(batch.x), self.num_classes), f"predictions are {tuple(predicted.shape)}"

    def test_batches_of_one_class_and_of_few_images(self) -> None:
        """The loss and its gradient are finite if all images have one class, and if no two have the same."""
        batch = self.batch()
        rows = torch.tensor([0, 5, 10])  # three classes and three domains
        one_class = Batch(batch.x, torch.zeros_like(batch.y), batch.domain)
        few = Batch(batch.x[rows], batch.y[rows], None if batch.domain is None else batch.domain[rows])
        for unusual in (one_class, few):
            method = self.make()
            terms = method(unusual).terms
            _check_terms(terms)
            terms["loss"].backward()
            _check_gradients(method, every=False)

    def test_gradients_are_finite(self) -> None:
        """The loss gives every trainable parameter a finite gradient, and not all of them are 0."""
        method = self.make()
        method(self.batch()).terms["loss"].backward()
        _check_gradients(method)
        assert any(p.grad.any() for p in method.parameters() if p.grad is not None), "every gradient is 0"

    def test_the_batch_is_not_changed(self) -> None:
        """Neither images nor labels are changed in place."""
        method, batch = self.make(), self.batch()
        given = copy.deepcopy(batch)
        method(batch).terms["loss"].backward()
        method.eval().predict(batch.x)
        for field in ("x", "y", "domain"):
            assert torch.equal(getattr(given, field), getattr(batch, field)), f"batch.{field} is changed"

    def test_state_dict_round_trip(self) -> None:
        """A method loaded from a checkpoint continues exactly like the saved one.

        State that a step changes must be a parameter, a buffer, or part of `get_extra_state`.
        """
        saved, loaded, batch = self.make(), self.make(seed=1), self.batch()
        optimizer = torch.optim.Adam(saved.parameters(), lr=1e-3)
        for _ in range(2):
            _step(saved, batch, optimizer)
        file = io.BytesIO()
        torch.save(saved.state_dict(), file)
        file.seek(0)
        loaded.load_state_dict(torch.load(file, weights_only=True))
        predictions = [method.eval().predict(batch.x) for method in (saved, loaded)]
        assert torch.equal(*predictions), "a loaded method predicts something else than the saved one"
        continued = []
        for method in (saved, loaded):
            torch.manual_seed(2)
            method.train()
            continued.append([_step(method, batch) for _ in range(2)])
        assert continued[0] == continued[1], f"a loaded method trains differently: {continued[0]} and {continued[1]}"

    def test_evaluation_is_deterministic_and_changes_nothing(self) -> None:
        """In evaluation mode nothing is random, no state changes, and `predict` gives the logits of `forward`."""
        method, batch = self.make(), self.batch()
        _step(method, batch)
        method.eval()
        state, random_states = copy.deepcopy(method.state_dict()), _random_states()
        first, second = method(batch), method(batch)
        assert _values(first.terms) == _values(second.terms), "the terms of two passes differ in evaluation mode"
        assert torch.equal(first.logits, second.logits), "the logits of two passes differ in evaluation mode"
        assert torch.equal(method.predict(batch.x), method.predict(batch.x)), (
            "two predictions differ in evaluation mode"
        )
        with torch.no_grad():  # as in the harnesses' evaluation
            terms, predicted = method(batch).terms, method.predict(batch.x)
        # Without gradients PyTorch may choose other kernels, which round differently.
        _check_close(terms, first.terms, "terms differ under torch.no_grad")
        _check_close(predicted, method.predict(batch.x), "predictions differ under torch.no_grad")
        if not method.averages:
            _check_close(predicted, first.logits, "predict does not give the logits of forward")
        assert _random_states() == random_states, "evaluation draws from a global random generator"
        for key, value in method.state_dict().items():
            same = torch.equal(state[key], value) if isinstance(value, Tensor) else _same(state[key], value)
            assert same, f"evaluation changes {key}"

    def test_predictions_are_of_single_images(self) -> None:
        """The prediction for an image does not depend on the other images of its batch."""
        method, batch = self.make(), self.batch()
        _step(method, batch)
        method.eval()
        with torch.no_grad():
            whole, part = method.predict(batch.x), method.predict(batch.x.flip(0)[:5])
        torch.testing.assert_close(
            part, whole.flip(0)[:5], atol=1e-4, rtol=1e-4, msg=lambda text: f"predictions depend on the batch: {text}"
        )

    def test_domain_labels_are_optional_or_asked_for(self) -> None:
        """Without domain labels the method works, or it sets `needs_domains` and raises a UserError."""
        method, batch = self.make(), self.batch()
        without = Batch(batch.x, batch.y)
        if not method.needs_domains:
            _check_terms(method(without).terms)
            return
        refused = False
        try:
            method(without)
        except UserError:
            refused = True
        assert refused, "needs_domains is true, and a batch without domains is no UserError (see Algorithm.domains)"

    def test_bf16_autocast(self) -> None:
        """Under autocast to bf16 the loss is float32, its gradient finite, and results are near those in float32."""
        batch = self.batch()
        with torch.autocast("cpu", torch.bfloat16):
            method = self.make()
            loss = method(batch).terms["loss"]
        assert loss.dtype == torch.float32, f"the loss is {loss.dtype} under autocast to bf16: sum in float32"
        assert torch.isfinite(loss), f"the loss is {loss.item()} under autocast to bf16"
        loss.backward()
        _check_gradients(method)
        method.eval()
        with torch.no_grad():
            full = method(batch)
            with torch.autocast("cpu", torch.bfloat16):
                half = method(batch)
        for name, exact, rounded in (
            ("logits", full.logits, half.logits.float()),
            ("loss", full.terms["loss"], half.terms["loss"]),
        ):
            error, scale = (exact - rounded).abs().max().item(), 1 + exact.abs().max().item()
            assert error <= BF16_TOLERANCE * scale, f"{name} differ by {error:.3g} under autocast to bf16"

    def test_a_training_step_never_waits_for_the_device(self) -> None:
        """A step reads no value back from a GPU and copies nothing to one blockingly; see `NoWaiting`."""
        method, batch = self.make().to("meta"), self.batch()
        domain = None if batch.domain is None else batch.domain.to("meta")
        on_meta = Batch(batch.x.to("meta"), batch.y.to("meta"), domain)
        with NoWaiting():
            method(on_meta).terms["loss"].backward()
            method.after_step()

    def test_hparams_are_within_their_bounds(self) -> None:
        """Defaults and 20 random draws are accepted, for every dataset with values of its own; JSON can hold them."""
        own = spaces.space(self.name)
        named = {dataset for entry in own.values() for dataset in entry.datasets or ()}
        for dataset in (None, "NuisanceDigits", *sorted(named)):
            entries = spaces.space(self.name, dataset)
            for values in (spaces.defaults(entries), *(spaces.sample(entries, seed) for seed in range(20))):
                assert spaces.check(entries, values) == values, f"{values} is not what the checks give"
                assert json.loads(json.dumps(values)) == values, f"{values} is something else after a JSON round trip"
        for name, entry in own.items():
            assert entry.help.strip(), f"the hyper-parameter {name} has no help"

    def test_random_hparams_train(self) -> None:
        """A step with random hyper-parameters has a finite loss and gradient."""
        batch = self.batch()
        for seed in range(1, 4):
            method = self.make(**{**spaces.sample(spaces.space(self.name), seed), **self.hparams})
            terms = method(batch).terms
            _check_terms(terms)
            terms["loss"].backward()
            _check_gradients(method, every=False)

    def test_an_unknown_hyper_parameter_is_refused(self) -> None:
        """A hyper-parameter that the YAML file does not have is a UserError that names it."""
        try:
            self.make(no_such_option=1)
        except UserError as error:
            assert "no_such_option" in str(error), f"the error does not name the hyper-parameter: {error}"
        else:
            raise AssertionError("an unknown hyper-parameter is accepted")


def _step(method: Algorithm, batch: Batch, optimizer: torch.optim.Optimizer | None = None) -> dict[str, float]:
    """A training step, without a change of the parameters if there is no optimizer; the values of the terms."""
    terms = method(batch).terms
    method.zero_grad()
    terms["loss"].backward()
    if optimizer is not None:
        optimizer.step()
    method.after_step()
    return _values(terms)


def _check_close(
    values: Tensor | Mapping[str, Tensor], expected: Tensor | Mapping[str, Tensor], complaint: str
) -> None:
    """Equal but for rounding in float32."""
    torch.testing.assert_close(values, expected, msg=lambda text: f"{complaint}: {text}")


def _values(terms: Mapping[str, Tensor]) -> dict[str, float]:
    return {name: term.item() for name, term in terms.items()}


def _check_terms(terms: Mapping[str, Tensor]) -> None:
    assert "loss" in terms, f"there is no term 'loss' among {sorted(terms)}"
    for name, term in terms.items():
        assert term.ndim == 0, f"the term {name} has shape {tuple(term.shape)}, and must be a scalar"
        assert torch.isfinite(term), f"the term {name} is {term.item()}"
        assert term.requires_grad == (name == "loss"), f"'loss' alone must carry a gradient; see the term {name}"


def _check_gradients(method: Algorithm, every: bool = True) -> None:
    for name, parameter in method.named_parameters():
        if parameter.requires_grad and (every or parameter.grad is not None):
            assert parameter.grad is not None, f"the loss gives the parameter {name} no gradient"
            assert torch.isfinite(parameter.grad).all(), f"the gradient of {name} is not finite"


def _random_states() -> tuple[Any, ...]:
    """The states of the global random generators of PyTorch, NumPy and Python, comparable with ==."""
    numpy_state = np.random.get_state()
    return torch.get_rng_state().tolist(), str(numpy_state), numpy_state[1].tolist(), random.getstate()  # type: ignore[index]


def _same(first: Any, second: Any) -> bool:
    """Whether two extra states (dictionaries of tensors, or values) are equal."""
    if isinstance(first, dict) and isinstance(second, dict):
        return first.keys() == second.keys() and all(_same(first[key], second[key]) for key in first)
    return torch.equal(first, second) if isinstance(first, Tensor) else first == second
