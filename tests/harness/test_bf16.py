"""The hyper-parameter bf16: one step in both precisions, its path on a GPU, and who takes and who refuses it."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch
from real_domainbed import RealDomainBed, train_flags
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from cim_dg.algorithms import REGISTRY, Algorithm, Batch
from cim_dg.errors import UserError
from cim_dg.harness.registration import refuse_bf16
from cim_dg.harness.step import TrainingStep

ROUNDING = 2.0**-9
"""The relative error of rounding to bf16, which has 8 bits of precision."""
PRODUCTS = 10
"""Of matrices on the longest path: CIM's mask network has 4, the featurizer 3, the bottleneck 2, the classifier 1."""
TOLERANCE = 2 * 3 * PRODUCTS * ROUNDING
"""Relative to the float32 gradient's norm: each product, forward and backward, rounds two operands and its result."""


def step(method: Algorithm, batch: Batch, bf16: bool) -> tuple[dict[str, float], torch.Tensor]:
    """The terms of an SGD step, and its change of the weights as a vector."""
    before = weights(method)
    optimizer = torch.optim.SGD(method.parameters(), lr=1.0)
    torch.manual_seed(1)
    _, terms = TrainingStep(method, bf16)(batch, optimizer)
    return terms, weights(method) - before


def weights(method: Algorithm) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in method.parameters()])


@pytest.mark.parametrize("name", REGISTRY)
def test_a_step_is_that_of_float32_but_for_rounding(make: Callable[..., Algorithm], batch: Batch, name: str) -> None:
    (exact, change), (rounded, rounded_change) = (step(make(name), batch, bf16) for bf16 in (False, True))
    assert rounded == pytest.approx(exact, rel=TOLERANCE, abs=TOLERANCE)
    assert 0 < (rounded_change - change).norm() <= TOLERANCE * change.norm()


@pytest.mark.parametrize("name", REGISTRY)
def test_weights_gradients_and_the_loss_stay_in_float32(
    make: Callable[..., Algorithm], batch: Batch, name: str
) -> None:
    method = make(name)
    output, _ = TrainingStep(method, bf16=True)(batch, torch.optim.SGD(method.parameters(), lr=0.1))
    assert output.terms["loss"].dtype == torch.float32
    assert {parameter.dtype for parameter in method.parameters()} == {torch.float32}
    assert {p.grad.dtype for p in method.parameters() if p.grad is not None} == {torch.float32}


def put_on_fake_gpu(module: torch.nn.Module) -> None:
    """Replace all parameters and buffers; `Module.to` cannot, as fake tensors refer to each other."""
    for part in module.modules():
        of_part: list[dict[str, Any]] = [part._parameters, part._buffers]
        for tensors in of_part:
            for name, tensor in tensors.items():
                if tensor is not None:
                    fake = torch.empty(tensor.shape, dtype=tensor.dtype, device="cuda")
                    tensors[name] = torch.nn.Parameter(fake) if tensors is part._parameters else fake


class Types(TorchDispatchMode):
    """Counts convolutions and matrix products by the type that they are computed in."""

    def __init__(self) -> None:
        super().__init__()
        self.of: dict[str, set[torch.dtype]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation."""
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(value, torch.Tensor):
                assert value.device.type == "cuda"
                self.of.setdefault(func.overloadpacket.__name__, set()).add(value.dtype)
        return result


@pytest.mark.parametrize("name", ["ERM", "CIM_VIB"])
def test_on_a_gpu_networks_compute_in_bf16_and_the_similarity_in_float32(
    make: Callable[..., Algorithm], batch: Batch, name: str
) -> None:
    """On tensors without data. Nothing goes backward on them: autograd asks the driver."""
    without_driver = mock.patch("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
    supports_bf16 = mock.patch.object(torch.cuda, "is_bf16_supported", lambda *_: True)
    captures = mock.patch.object(torch.cuda, "is_current_stream_capturing", lambda: False)
    method = make(name)
    method(batch)  # keeps numbers that are read once, and fakes have none
    with without_driver, supports_bf16, captures, FakeTensorMode():
        put_on_fake_gpu(method)
        x = torch.empty(batch.x.shape, device="cuda")
        training = TrainingStep(method, bf16=True)
        with Types() as types, training.autocast(x):
            output = method(Batch(x, *torch.empty(2, len(x), dtype=torch.int64, device="cuda")))
        assert types.of["convolution"] == {torch.bfloat16}
        # The classifier's products in bf16; those of the similarity's windows in float32.
        similarity = types.of.get("bmm", set()) | types.of.get("mm", set())
        assert similarity == (set() if name == "ERM" else {torch.float32})
        assert output.terms["loss"].dtype == torch.float32
        assert training.predict(x).dtype == torch.float32 and training.predict(x).device.type == "cuda"


def test_small_images_are_channels_last_in_bf16_alone(make: Callable[..., Algorithm]) -> None:
    small, large = torch.zeros(2, 3, 64, 48), torch.zeros(2, 3, 65, 48)
    for bf16 in (False, True):
        images = TrainingStep(make("ERM"), bf16).images
        assert images(small).is_contiguous(memory_format=torch.channels_last) is bf16
        assert images(large) is large
    assert TrainingStep(make("ERM")).images(small) is small


@pytest.mark.parametrize("name", ["ERM", "GroupDRO"])
def test_the_stand_ins_own_algorithms_take_it(name: str) -> None:
    registry = importlib.import_module("domainbed.hparams_registry")
    algorithms = importlib.import_module("domainbed.algorithms")
    defaults = registry.default_hparams(name, "NuisanceDigits")
    assert "bf16" not in defaults  # as in DomainBed
    hparams = registry.with_overrides(defaults, '{"bf16": true}', name)
    algorithm = algorithms.get_algorithm_class(name)((3, 36, 36), 10, 2, hparams)
    assert algorithm._step.bf16
    with pytest.raises(UserError, match=r"^bf16 is 1; accepted is true or false$"):
        registry.with_overrides(defaults, '{"bf16": 1}', name)


def test_a_harness_that_would_ignore_it_refuses_it() -> None:
    networks = SimpleNamespace(Featurizer=lambda shape, hparams: (shape, hparams))
    refuse_bf16(networks)
    assert networks.Featurizer((3, 28, 28), {"bf16": False}) == ((3, 28, 28), {"bf16": False})
    assert networks.Featurizer((3, 28, 28), hparams={}) == ((3, 28, 28), {})
    with pytest.raises(
        UserError,
        match=r"^bf16 is true, but the harness' own algorithms compute in float32; only methods of cim-dg take bf16$",
    ):
        networks.Featurizer((3, 28, 28), {"bf16": True})


@pytest.mark.harness
@pytest.mark.slow
def test_the_real_domainbed_trains_ours_in_bf16_and_refuses_it_to_its_own(real: RealDomainBed, tmp_path: Path) -> None:
    train = ["-m", "domainbed.scripts.train"]
    ours, theirs = (
        real.python(*train, *train_flags(name, "Debug28", tmp_path / name, tmp_path, steps=2, bf16=True))
        for name in ("CIM", "ERM")
    )
    assert ours.returncode == 0, ours.stderr
    assert (tmp_path / "CIM" / "done").exists()
    error = (tmp_path / "ERM" / "err.txt").read_text()
    assert theirs.returncode == 2 and error.endswith("only methods of cim-dg take bf16\n")
    assert "Traceback" not in error
