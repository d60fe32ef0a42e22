"""Spirograph: against a slow scalar version, bounds, seeds, gradients by finite differences, and its environments."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.random import RandomState

from cim_dg.data import spirograph
from cim_dg.data.spirograph import ENVIRONMENTS, RANGES, Parameters, draw, environments, sample
from cim_dg.errors import UserError


def scalar_drawing(p: dict[str, float], fore: list[float], back: list[float], side: int) -> list[list[list[float]]]:
    """One drawing, [channel][row][column], by the definition: pure loops, one number at a time."""
    a = p["m"] + p["b"] - p["h"]
    curve = []
    for k in range(40):
        t = 2 * math.pi * k / 39
        turned = t * (a - p["b"]) / p["b"]
        x = (a - p["b"]) * math.cos(t) + p["h"] * math.cos(turned)
        curve.append((x, (a - p["b"]) * math.sin(t) - p["h"] * math.sin(turned)))
    v: list[list[float]] = []
    for row in range(side):
        v.append([])
        for column in range(side):
            x, y = (-6 + 12 * place / (side - 1) for place in (column, row))
            near = [math.exp(-((x - cx) ** 2 + (y - cy) ** 2) / p["sigma"]) for cx, cy in curve]
            v[-1].append(sum(near) / len(near))
    peak = max(max(line) for line in v)
    return [
        [[one / peak * f + (1 - one / peak) * b for one in line] for line in v] for f, b in zip(fore, back, strict=True)
    ]


def in_float64(parameters: Parameters) -> Parameters:
    return Parameters(**{field.name: getattr(parameters, field.name).double() for field in fields(parameters)})


@pytest.mark.parametrize("side", [32, 7])
def test_drawings_are_those_of_the_scalar_version(side: int) -> None:
    parameters = in_float64(sample(4, RandomState(1)))
    images = draw(parameters, side)
    for index, image in enumerate(images):
        factors = {name: float(getattr(parameters, name)[index]) for name in ("m", "b", "h", "sigma")}
        slow = scalar_drawing(factors, parameters.fore[index].tolist(), parameters.back[index].tolist(), side)
        np.testing.assert_allclose(image.numpy(), slow, atol=1e-12)
    single = draw(sample(4, RandomState(1)), side)
    # Beside the scalar version in double precision: t (a - b) / b is up to 300 radians.
    np.testing.assert_allclose(single.numpy(), images.numpy(), atol=2e-3)


def test_images_are_pixels_between_the_two_colours() -> None:
    parameters = sample(300, RandomState(0))
    images = draw(parameters)
    assert images.shape == (300, 3, 32, 32) and images.dtype == torch.float32
    assert images.min() >= 0 and images.max() <= 1
    low, high = torch.minimum(parameters.fore, parameters.back), torch.maximum(parameters.fore, parameters.back)
    assert (images >= low[:, :, None, None] - 1e-6).all() and (images <= high[:, :, None, None] + 1e-6).all()
    # The brightest place of v has the foreground's very colour.
    nearest = (images - parameters.fore[:, :, None, None]).abs().amax(dim=1).amin(dim=(1, 2))
    assert nearest.max() < 1e-6


def test_factors_are_uniform_in_their_ranges_and_follow_the_seed() -> None:
    parameters = sample(2000, RandomState(3))
    for name in RANGES:
        low, high = (float(end) for end in RANGES[name])  # type: ignore[arg-type]  # of numbers here, not of colours
        values = getattr(parameters, name)
        assert values.shape == ((2000, 3) if name in ("fore", "back") else (2000,))
        assert values.min() >= low and values.max() <= high
        assert float(values.mean()) == pytest.approx((low + high) / 2, abs=0.03 * (high - low))
        assert torch.equal(values, getattr(sample(2000, RandomState(3)), name))
        assert not torch.equal(values, getattr(sample(2000, RandomState(4)), name))


def test_no_global_random_state_is_moved() -> None:
    torch_state, numpy_state = torch.get_rng_state(), repr(np.random.get_state())
    draw(environments(0, 5)["thin"])
    assert torch.equal(torch_state, torch.get_rng_state()) and numpy_state == repr(np.random.get_state())


def test_gradients_are_those_of_finite_differences() -> None:
    names = [field.name for field in fields(Parameters)]
    # Wheels that are not too small: at b = 0.1 the curve moves 50 times as fast as m does.
    parameters = in_float64(sample(2, RandomState(5), {"b": (0.5, 1.1)}))
    values = tuple(getattr(parameters, name).requires_grad_() for name in names)
    assert torch.autograd.gradcheck(lambda *given: draw(Parameters(*given), side=6), values)


def test_classes_are_five_equal_bins_of_m() -> None:
    parameters = sample(5, RandomState(0))
    m = torch.tensor([2.0, 2.59, 2.61, 4.39, 5.0])
    assert replace(parameters, m=m).classes().tolist() == [0, 0, 1, 3, 4]
    counts = torch.bincount(sample(5000, RandomState(1)).classes(), minlength=5)
    assert len(counts) == 5 and counts.min() > 900


def test_targets_are_the_papers_four() -> None:
    parameters = sample(3, RandomState(0))
    expected = [parameters.m, parameters.b, parameters.sigma, parameters.fore[:, 0]]
    assert torch.equal(parameters.targets(), torch.stack(expected, dim=1))


def test_environments_differ_in_nuisances_alone() -> None:
    actual = environments(0, 400)
    assert list(actual) == list(ENVIRONMENTS) == ["thin", "middle", "thick"]
    widths = [one.sigma for one in actual.values()]
    assert widths[0].max() < widths[1].min() and widths[1].max() < widths[2].min()
    for index, (name, one) in enumerate(actual.items()):
        assert one.fore.argmax(dim=1).eq(index).all()
        for factor, (low, high) in ENVIRONMENTS[name].items():
            values = getattr(one, factor)
            assert (values >= torch.tensor(low) - 1e-6).all() and (values <= torch.tensor(high) + 1e-6).all()
        assert torch.bincount(one.classes(), minlength=5).min() > 50
        assert one.b.max() - one.b.min() > 0.9 and one.h.max() - one.h.min() > 1.8
    again = environments(0, 400)["thick"]
    assert torch.equal(again.m, actual["thick"].m) and not torch.equal(environments(1, 400)["thick"].m, again.m)


def test_a_curve_off_the_grid_is_plain_background() -> None:
    parameters = replace(sample(1, RandomState(0)), m=torch.tensor([500.0]))
    assert torch.equal(draw(parameters), parameters.back[:, :, None, None].expand(1, 3, 32, 32))


@pytest.mark.parametrize("change", [{"sigma": torch.tensor([0.0])}, {"b": torch.tensor([0.0])}])
def test_factors_without_a_drawing_are_refused(change: dict[str, torch.Tensor]) -> None:
    with pytest.raises(UserError, match="sigma must be above 0"):
        draw(replace(sample(1, RandomState(0)), **change))


@pytest.mark.parametrize(("seed", "count"), [(-1, 400), (True, 400), (0, 4), (0, 10.5)])
def test_seeds_and_counts_that_are_none(seed: int, count: int) -> None:
    with pytest.raises(UserError, match="whole number"):
        spirograph.environments(seed, count)


@pytest.mark.slow
def test_the_regression_of_the_docs_runs(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "docs/spirograph.py", "--seeds", "1", "--steps", "2", "--output", str(tmp_path)],
        cwd=root,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    rows = [line.split(" | ")[0].strip("| ") for line in done.stdout.splitlines()[2:]]
    assert rows == ["random weights", "ERM", "VIB", "SCL", "CIM", "end to end"] and "nan" not in done.stdout
    assert {path.name for path in tmp_path.iterdir()} == {"spirograph-images.png", "spirograph-r2.png"}
