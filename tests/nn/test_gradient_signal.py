from __future__ import annotations

import itertools
from importlib import import_module

import pandas as pd
import pytest
import small_datasets
import torch

from cim_dg import autoload, cli
from cim_dg.algorithms import Batch
from cim_dg.harness.step import TrainingStep
from cim_dg.nn.gradient_signal import (
    DECAY,
    RunningSignal,
    directions,
    flat_gradient,
    signal_to_noise,
    u_statistic_variance,
)
from cim_dg.runtime.device_waits import NoWaiting


def test_the_ratio_against_a_loop_over_pairs():
    gradients = torch.randn(7, 5, dtype=torch.float64) + 0.5
    pairs = list(itertools.permutations(gradients, 2))
    signal = sum((a @ b).item() for a, b in pairs) / len(pairs)
    noise = gradients.var(dim=0).sum().item()  # unbiased, of every coordinate
    assert signal_to_noise(gradients).value == pytest.approx(signal / noise)


def test_the_variance_of_a_u_statistic_against_a_loop_over_four_draws():
    kernel = torch.randn(7, 7, dtype=torch.float64) + 3
    kernel = kernel + kernel.T
    mean = sum(kernel[i, j] for i, j in itertools.permutations(range(7), 2)) / 42
    fours = [kernel[i, j] * kernel[k, m] for i, j, k, m in itertools.permutations(range(7), 4)]
    expected = mean**2 - sum(fours) / len(fours)
    rest = [(kernel[i, j] - mean) ** 2 for i, j in itertools.permutations(range(7), 2)]
    floor = 2 / 42 * sum(rest) / 42
    assert u_statistic_variance(kernel) == pytest.approx(max(float(expected), float(floor)), rel=1e-9)
    linear = torch.arange(7.0, dtype=torch.float64)
    additive = linear[:, None] + linear[None, :]  # its mean is twice that of the draws
    assert u_statistic_variance(additive) == pytest.approx(4 * linear.var().item() / 7)


@pytest.mark.parametrize("ratio", [0.0, 0.05, 1.0])
def test_gradients_of_a_known_ratio(ratio):
    """Unbiased, also without a signal, where the norm of the mean would give 1 / 30; intervals cover in 95%."""
    torch.manual_seed(0)
    scale = torch.linspace(0.1, 1, 50)
    mean = torch.randn(50)
    mean *= (ratio * scale.square().sum()).sqrt() / mean.norm()
    estimates = [signal_to_noise(mean + scale * torch.randn(30, 50)) for _ in range(200)]
    values = torch.tensor([each.value for each in estimates])
    assert abs(values.mean().item() - ratio) < 4 * values.std().item() / 200**0.5 + 0.02 * ratio
    covered = sum(each.low <= ratio <= each.high for each in estimates) / 200
    assert covered >= 0.95 - 4 * (0.95 * 0.05 / 200) ** 0.5
    assert sum(each.error for each in estimates) / 200 == pytest.approx(values.std().item(), rel=0.35)


def test_a_single_large_gradient_does_not_hide_a_signal_of_directions():
    torch.manual_seed(0)
    gradients = torch.randn(40, 20) + 0.5
    gradients[7] = 100 * torch.randn(20)
    assert signal_to_noise(gradients).low < 0 < 0.1 < signal_to_noise(directions(gradients)).low
    assert directions(torch.zeros(3)).tolist() == [0, 0, 0]


def test_equal_gradients_have_no_noise_and_three_are_too_few():
    zero = signal_to_noise(torch.zeros(5, 3))
    assert (zero.value, zero.low, zero.high) == (0, 0, 0)
    with pytest.raises(ValueError, match="at least 4"):
        signal_to_noise(torch.zeros(3, 3))


def test_the_running_ratio_against_a_loop_over_draws():
    network = torch.nn.Linear(4, 1, bias=False)
    running = RunningSignal(network, every=2)
    draws = []
    for step in range(9):
        gradient = torch.randn(4) + 1
        running.see((network.weight @ gradient).sum())
        running.after_step()
        if step % 2 == 0:
            draws.append(gradient.double() / gradient.double().norm())
        assert (running.value() == 0) == (len(draws) < 2)
    weights = [DECAY ** (len(draws) - 1 - number) for number in range(len(draws))]
    pairs = [(v * w, a, b) for (v, a), (w, b) in itertools.permutations(zip(weights, draws, strict=True), 2)]
    signal = sum(w * (a @ b).item() for w, a, b in pairs)
    noise = sum(w * (a - b).square().sum().item() / 2 for w, a, b in pairs)
    assert running.value().item() == pytest.approx(signal / noise, rel=1e-4)

    other = RunningSignal(network, every=2)
    other.load_state_dict(running.state_dict())
    assert other.steps == 9 and torch.equal(other.value(), running.value())


def test_several_gradients_of_a_step_are_one_draw():
    network = torch.nn.Linear(3, 1, bias=False)
    running = RunningSignal(network, every=1)
    running.see(network.weight[0, :2].sum() * 2 - network.weight.sum())
    running.see(network.weight[0, 2] * 4 + network.weight[0, :2].sum() + network.weight[0, 2])
    running.after_step()
    torch.testing.assert_close(running.gradient, torch.tensor([1.0, 1.0, 2.0]) / 6**0.5)


def replica_of(module: torch.nn.Module) -> torch.nn.Module:
    """What DataParallel computes with: a shallow copy, whose parameters are differentiable copies."""
    copy = module._replicate_for_data_parallel()
    for name, child in module._modules.items():
        copy._modules[name] = child and replica_of(child)
    for name, parameter in module._parameters.items():
        setattr(copy, name, parameter if parameter is None else parameter.clone())
    return copy


def test_replicas_of_data_parallel_are_one_draw(make, batch):
    alone, parallel = make("CIM", cim_signal_every=1), make("CIM", cim_signal_every=1)
    halves = [Batch(batch.x[half], batch.y[half]) for half in (slice(0, 6), slice(6, 12))]
    for method, wrap in ((alone, lambda method: method), (parallel, replica_of)):
        torch.manual_seed(0)
        for half in halves:
            wrap(method)(half)
        method.after_step()
    assert alone.morphing.signal.gradient.any()
    assert torch.equal(parallel.morphing.signal.gradient, alone.morphing.signal.gradient)


def test_the_log_changes_neither_the_training_nor_the_random_stream(make, batch):
    methods = [make("CIM", cim_signal_every=every) for every in (0, 2)]
    states, terms = [], []
    for method in methods:
        torch.manual_seed(0)
        step = TrainingStep(method)
        optimizer = torch.optim.Adam(method.parameters())
        terms.append([step(batch, optimizer)[1] for _ in range(5)])
        states.append(torch.get_rng_state())
    assert torch.equal(*states)
    for (name, off), on in zip(methods[0].named_parameters(), methods[1].parameters(), strict=True):
        assert torch.equal(off, on), name
    assert "signal" not in terms[0][0]
    signals = [each.pop("signal") for each in terms[1]]
    assert terms[0] == terms[1]
    assert signals[:3] == [0, 0, 0] and signals[3] == signals[4] != 0  # after the draws of steps 0 and 2
    method = make("CIM", cim_signal_every=2)
    method.load_state_dict(methods[1].state_dict())
    assert method.morphing.signal.steps == 5


def test_it_is_the_gradient_of_the_contrast_alone(make, batch):
    method = make("CIM", cim_signal_every=1, cim_anchors=0)
    torch.manual_seed(1)
    method(batch).terms["loss"].backward()
    method.after_step()
    other = make("CIM", cim_anchors=0)
    torch.manual_seed(1)
    morph = other.morphing(batch.x)
    expected = flat_gradient(
        other.morphing.contrast(morph, batch)["contrast"], list(other.morphing.network.parameters())
    )
    torch.testing.assert_close(method.morphing.signal.gradient, expected / expected.norm())


def test_without_a_contrast_the_signal_is_0(make, batch):
    method = make("CIM", cim_signal_every=1, cim_lambda=0.0)
    for _ in range(3):
        terms = method(batch).terms
        method.after_step()
    assert terms["signal"] == 0


def test_nothing_waits_for_a_gpu(make):
    method = make("CIM", cim_signal_every=1).to("meta")
    x, y = torch.empty(6, 3, 16, 16, device="meta"), torch.empty(6, dtype=torch.int64, device="meta")
    with NoWaiting():
        for _ in range(2):
            method(Batch(x, y)).terms["loss"].backward()
            method.after_step()


def test_every_harness_logs_it(tmp_path):
    small_datasets.waterbirds(tmp_path)
    options = ["--dataset", "waterbirds", "--algorithm", "CIM", "--root_dir", str(tmp_path), "--log_every", "1"]
    options += ["--log_dir", str(tmp_path / "log"), "--cim_signal_every", "1", "--device", "cpu"]
    assert cli.main(["wilds", "train", *options, *small_datasets.QUICK]) == 0
    logged = pd.read_csv(tmp_path / "log" / "train_algo.csv")["signal"]
    assert (logged[:2] == 0).all() and (logged[2:] != 0).all()

    autoload.install()
    domainbed = {name: import_module(f"domainbed.{name}") for name in ("algorithms", "hparams_registry")}
    hparams = domainbed["hparams_registry"].default_hparams("CIM_VIB", "NuisanceDigits") | {"cim_signal_every": 1}
    method = domainbed["algorithms"].get_algorithm_class("CIM_VIB")((3, 36, 36), 10, 2, hparams)
    batch = [(torch.rand(6, 3, 36, 36), torch.arange(6) % 3) for _ in range(2)]
    signals = [method.update(batch)["signal"] for _ in range(3)]
    assert signals[:2] == [0, 0] and signals[2] != 0
