"""NuisanceDigits: what its environments hold, what they depend on, and that both DomainBeds take it."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_sample_images

from cim_dg.data import digits
from cim_dg.domainbed.datasets import NuisanceEnvironment, make_nuisance_digits, nuisance_environments
from cim_dg.errors import UserError


@pytest.fixture(scope="module")
def environments() -> list[NuisanceEnvironment]:
    return nuisance_environments()


def bare_harness() -> ModuleType:
    """The least that a DomainBed's datasets module has."""

    class MultipleDomainDataset:
        N_STEPS = 5001
        datasets: list[Any]

        def __getitem__(self, index: int) -> Any:
            return self.datasets[index]

        def __len__(self) -> int:
            return len(self.datasets)

    module = ModuleType("bare_harness_datasets")
    module.MultipleDomainDataset = MultipleDomainDataset  # type: ignore[attr-defined]
    return module


def test_environments_hold_what_they_are_said_to(environments: list[NuisanceEnvironment]) -> None:
    assert [environment.name for environment in environments] == ["+90%", "+80%", "new"]
    assert [len(environment.labels) for environment in environments] == [300, 300, 1197]
    for environment in environments:
        assert (
            environment.images.shape == (len(environment.labels), 3, 36, 36)
            and environment.images.dtype == torch.float32
        )
        assert environment.images.min() >= 0 and environment.images.max() <= 1
        assert environment.labels.dtype == torch.int64 and set(environment.labels.tolist()) == set(range(10))


def test_no_digit_is_in_two_environments(environments: list[NuisanceEnvironment]) -> None:
    drawn = [shape.numpy().tobytes() for environment in environments for shape in environment.opacities]
    assert len(set(drawn)) == len(drawn) == 1797


def test_digit_mask_is_where_the_digit_is_white(environments: list[NuisanceEnvironment]) -> None:
    for environment in environments:
        mask = environment.digit_mask()
        assert mask.shape == environment.opacities.shape and mask.dtype == torch.bool
        assert 0.05 < mask.float().mean() < 0.35
        whitest = environment.images.amin(dim=1)  # over the channels
        assert whitest[mask].min() >= 0.5
        assert whitest[mask].mean() > whitest[~mask].mean() + 0.3


def stripe_angles(images: torch.Tensor) -> np.ndarray:
    """The direction across the stripes, in [0, pi): that of the strongest frequency outside the digit."""
    centred = images - images.mean(dim=(2, 3), keepdim=True)
    window = torch.ones(36, 36)
    window[4:-4, 4:-4] = 0.15  # the digit's place says less
    spectrum = torch.fft.fft2(centred * window, s=(128, 128)).abs().sum(dim=1).numpy()
    spectrum[:, :4, :4] = 0
    rows, columns = np.unravel_index(spectrum.reshape(len(images), -1).argmax(axis=1), (128, 128))
    down, right = (np.where(part > 64, part - 128, part) for part in (rows, columns))
    return np.arctan2(down, right) % np.pi


@pytest.mark.parametrize("index", [0, 1, 2])
def test_stripes_follow_the_class_at_the_rate_and_in_new_not_at_all(
    environments: list[NuisanceEnvironment], index: int
) -> None:
    one = environments[index]
    step = 3 if one.name == "new" else 1  # every third background of 'new' is stripes
    angles, labels = stripe_angles(one.images[::step]), one.labels[::step].numpy()
    away = np.abs(angles - np.pi * (labels + 0.5) / 10)
    share = (np.minimum(away, np.pi - away) < np.pi * 0.08).mean()  # half a class' tenth, and some for the estimate
    expected = {"+90%": 0.91, "+80%": 0.83, "new": 0.16}[one.name]
    assert share == pytest.approx(expected, abs=0.07)


@pytest.mark.parametrize("index", [0, 1])
def test_plain_backgrounds_are_one_colour_that_follows_the_class(index: int) -> None:
    one = nuisance_environments(background="plain")[index]
    assert one.images[:, :, :4].std(dim=(2, 3)).max() < 1e-6
    red, green, blue = one.images[:, :, 0, 0].numpy().T
    turns = np.arctan2(np.sqrt(3) * (green - blue), 2 * red - green - blue) / (2 * np.pi) % 1
    share = (np.floor(turns * 10) == one.labels.numpy()).mean()
    assert share == pytest.approx({"+90%": 0.91, "+80%": 0.82}[one.name], abs=0.05)


def test_new_is_the_same_whatever_the_training_backgrounds_are(environments: list[NuisanceEnvironment]) -> None:
    plain = nuisance_environments(background="plain")
    assert torch.equal(plain[2].images, environments[2].images)
    for one, other in zip(plain, environments, strict=True):
        assert torch.equal(one.labels, other.labels)
    assert not torch.equal(plain[0].images, environments[0].images)


def test_images_depend_on_the_seed_alone_and_leave_the_global_random_state(
    environments: list[NuisanceEnvironment],
) -> None:
    np.random.seed(5)
    torch.manual_seed(5)
    again = nuisance_environments()
    after = np.random.rand(), torch.rand(1).item()
    np.random.seed(5)
    torch.manual_seed(5)
    assert after == (np.random.rand(), torch.rand(1).item())
    for one, other in zip(again, environments, strict=True):
        assert torch.equal(one.images, other.images)
    assert not torch.equal(nuisance_environments(seed=1)[0].images, environments[0].images)


def test_a_pixel_is_what_it_was_when_figures_were_published(environments: list[NuisanceEnvironment]) -> None:
    """Published figures hold for these very images: a change of them must not pass unseen."""
    assert environments[0].labels[:12].tolist() == [1, 6, 8, 9, 4, 9, 9, 1, 7, 6, 2, 0]
    means = [environment.images.double().mean().item() for environment in environments]
    assert means == pytest.approx([0.55428, 0.55317, 0.51022], abs=2e-5)


def test_fewer_digits_leave_more_for_new() -> None:
    assert [len(nuisance_environment.labels) for nuisance_environment in nuisance_environments(count=100)] == [
        100,
        100,
        1597,
    ]


def test_the_default_images_are_those_of_before_there_was_a_side_or_a_shift() -> None:
    """To the bit, by the code of that time."""
    made = nuisance_environments(count=20)[0]
    small, labels = digits.load_digits()
    part = np.random.RandomState([0, 0]).permutation(1797)[:20]
    rng = np.random.RandomState([0, 1])
    followed = np.where(rng.uniform(size=20) < 0.9, labels[part], rng.randint(10, size=20))
    angles = np.pi * ((followed + rng.uniform(size=20)) / 10)
    frequencies, phases = rng.uniform(0.3, 1.0, size=(20, 1, 1, 1)), rng.uniform(0, 2 * np.pi, size=(20, 3, 1, 1))
    t = angles.reshape(20, 1, 1, 1)
    v, u = np.mgrid[:36, :36]
    waves = np.sin(frequencies * (u * np.cos(t) + v * np.sin(t)) + phases)
    backgrounds = (0.9 * (0.5 + 0.5 * waves)).astype(np.float32)
    large = F.interpolate(torch.from_numpy(small[part])[:, None], size=(28, 28), mode="bicubic").clamp_(0, 1)
    opacities = F.pad(large, (4, 4, 4, 4)).numpy()
    assert np.array_equal(made.images, opacities + (1 - opacities) * backgrounds)


def test_photographs_are_cut_as_before_there_was_a_side() -> None:
    rng = np.random.RandomState(7)
    expected = np.empty((9, 3, 36, 36), dtype=np.float32)
    photo_index = rng.randint(2, size=9)
    for index, photo in enumerate(load_sample_images().images):
        pixels = torch.tensor(photo, dtype=torch.float32).permute(2, 0, 1)[None]
        shrunk = F.interpolate(pixels, scale_factor=1 / 3, mode="area")[0].numpy()
        rows, columns = (rng.randint(length - 35, size=9) for length in shrunk.shape[1:])
        for one in np.flatnonzero(photo_index == index):
            top, left = rows[one], columns[one]
            expected[one] = shrunk[:, top : top + 36, left : left + 36] * (0.7 / 255)
    assert np.array_equal(digits.photo_crops(np.random.RandomState(7), 9, 36), expected)


@pytest.mark.parametrize("side", [36, 41, 50])
def test_shifted_digits_stay_inside_in_front_of_the_same_backgrounds(side: int) -> None:
    aligned, shifted = (nuisance_environments(count=50, side=side, shift=shift)[1] for shift in (0, 4))
    room = side - round(28 * side / 36)
    corners = []
    for one, other in zip(aligned.opacities, shifted.opacities, strict=True):
        # No stroke is lost: the same digit, elsewhere.
        assert torch.equal(one[one > 0].sort().values, other[other > 0].sort().values)
        rows, columns = (torch.nonzero(other)[0] - torch.nonzero(one)[0]).tolist()
        assert torch.equal(other, one.roll((rows, columns), dims=(0, 1)))
        corners += [rows, columns]
    assert max(map(abs, corners)) <= (room + 1) / 2 and len(set(corners)) == 9
    background = (aligned.opacities == 0) & (shifted.opacities == 0)
    both = [one.images.permute(0, 2, 3, 1)[background] for one in (aligned, shifted)]
    assert len(both[0]) > 1000 and torch.equal(*both)


def test_larger_images_averaged_to_36_are_those_of_36() -> None:
    small, large = (nuisance_environments(count=10, side=side, shift=2)[0] for side in (36, 72))
    assert large.images.shape == (10, 3, 72, 72) and large.digit_mask().shape == (10, 72, 72)
    assert torch.equal(small.labels, large.labels)
    averaged = F.interpolate(large.images, (36, 36), mode="area")
    assert (averaged - small.images).abs().mean() < 0.02


@pytest.mark.parametrize("algorithm", ["ERM", "CIM"])
def test_the_featurizer_gets_averages_and_the_mask_the_whole_image(algorithm: str) -> None:
    from domainbed import algorithms, hparams_registry

    hparams = hparams_registry.default_hparams(algorithm, "NuisanceDigits")
    models = []
    for side in (36, 72):
        torch.manual_seed(0)
        models.append(algorithms.get_algorithm_class(algorithm)((3, side, side), 10, 2, {**hparams}))
    small, large = models
    x = torch.rand(4, 3, 72, 72, generator=torch.Generator().manual_seed(1))
    assert [p.shape for p in small.parameters()] == [p.shape for p in large.parameters()]
    if algorithm == "ERM":
        assert torch.equal(large.predict(x), small.predict(F.avg_pool2d(x, 2)))
    else:
        assert large.method.morph(x).mask.shape == (4, 1, 72, 72)
        method = small.method
        morphed = F.avg_pool2d(method.morph(x).inputs, 2)
        expected = method.classifier(method.featurizer(morphed))
        torch.testing.assert_close(large.predict(x), expected)
    assert np.isfinite(large.update([(x[:2], torch.tensor([0, 1])), (x[2:], torch.tensor([1, 0]))])["loss"])


def test_without_an_average_the_harness_must_have_a_featurizer() -> None:
    from domainbed import networks

    assert isinstance(networks.Featurizer((3, 28, 28), {"featurizer_side": None}), networks.MNIST_CNN)
    averaging = networks.Featurizer((3, 108, 108), {"featurizer_side": 28})
    assert isinstance(averaging.featurizer, networks.MNIST_CNN) and averaging.n_outputs == 128
    with pytest.raises(UserError, match=r"featurizer_side is None, and the harness has no featurizer .* 108x108"):
        networks.Featurizer((3, 108, 108), {"featurizer_side": None})


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"seed": -1}, "nuisance_seed is -1"),
        ({"seed": 1.5}, "nuisance_seed is 1.5"),
        ({"seed": True}, "nuisance_seed is True"),
        ({"background": "stripes"}, "nuisance_background is 'stripes'; accepted is one of texture, plain"),
        ({"count": 5}, "nuisance_digits is 5"),
        ({"side": 35}, "nuisance_side is 35; accepted is a whole number of at least 36 and at most 224"),
        ({"side": 72.0}, "nuisance_side is 72.0"),
        ({"shift": 5}, "nuisance_shift is 5; accepted is a whole number of at least 0 and at most 4"),
        ({"shift": -1}, "nuisance_shift is -1"),
        ({"count": 899}, "nuisance_digits is 899; accepted is .* at least 10 and at most 700"),
        ({"count": "300"}, "nuisance_digits is '300'"),
    ],
)
def test_bad_options_are_refused_by_name(arguments: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match=named):
        nuisance_environments(**arguments)


def check_nuisance_digits(made: Any, environments: list[NuisanceEnvironment]) -> None:
    assert made.__name__ == "NuisanceDigits" and made.ENVIRONMENTS == ["+90%", "+80%", "new"]
    assert made.N_STEPS == 200 and made.CHECKPOINT_FREQ == 50 and made.N_WORKERS == 0
    dataset = made(None, [2], {})
    assert len(dataset) == 3 and dataset.num_classes == 10 and dataset.input_shape == (3, 36, 36)
    image, label = dataset[2][7]
    assert torch.equal(image, environments[2].images[7]) and label == environments[2].labels[7]


def test_it_derives_from_the_harness_and_reads_its_hparams(environments: list[NuisanceEnvironment]) -> None:
    harness = bare_harness()
    made = make_nuisance_digits(harness)
    assert issubclass(made, harness.MultipleDomainDataset)
    check_nuisance_digits(made, environments)
    hparams = {"nuisance_seed": 4, "nuisance_background": "plain", "nuisance_digits": 50, "lr": 1e-3}
    expected = nuisance_environments(4, "plain", 50)
    for got, want in zip(made(None, [0], hparams), expected, strict=True):
        assert torch.equal(got.tensors[0], want.images)
    assert made(None, [0], {"nuisance_digits": 10, "nuisance_side": 40}).input_shape == (3, 40, 40)
    for name in ("nuisance_digits", "featurizer_side"):
        with pytest.raises(UserError, match=f"{name} is 0"):
            made(None, [0], {name: 0})


def test_a_registered_class_can_be_pickled(monkeypatch: pytest.MonkeyPatch) -> None:
    harness = bare_harness()
    monkeypatch.setitem(sys.modules, harness.__name__, harness)
    harness.NuisanceDigits = make_nuisance_digits(harness)  # type: ignore[attr-defined]
    assert pickle.loads(pickle.dumps(harness.NuisanceDigits)) is harness.NuisanceDigits


@pytest.mark.harness
def test_the_real_domainbed_takes_it(domainbed_root: Path) -> None:
    script = """
from domainbed import datasets
from cim_dg.domainbed.datasets import make_nuisance_digits, nuisance_environments
from tests.domainbed.test_datasets import check_nuisance_digits
check_nuisance_digits(make_nuisance_digits(datasets), nuisance_environments())
print(datasets.__file__)
"""
    path = os.pathsep.join([str(domainbed_root), str(Path(__file__).parents[2])])
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", "CIM_DG_AUTOLOAD": "0"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).is_relative_to(domainbed_root)


def test_tables_know_the_names_of_our_environments() -> None:
    from domainbed import datasets

    from cim_dg.domainbed.plugin import DATASETS
    from cim_dg.results.domains import ENVIRONMENTS

    for name in DATASETS:
        assert list(ENVIRONMENTS[name]) == datasets.get_dataset_class(name).ENVIRONMENTS, name
