"""`cim-dg signal`: its figures against loops, its files, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_datasets
import torch
from PIL import Image

from cim_dg import cli
from cim_dg.commands import signal_measure as measure
from cim_dg.commands.signal_images import Images
from cim_dg.commands.signal_report import meaning
from cim_dg.hparams import complete
from cim_dg.nn.gradient_signal import Estimate
from cim_dg.nn.perceptual import ms_ssim
from cim_dg.nn.pixels import PixelSpace

CPU = torch.device("cpu")


def make_images(y: list[int], side: int = 12, domains: list[int] | None = None, **hparams: Any) -> Images:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(len(y), 3, side, side, generator=generator)
    domain = torch.tensor(domains or [0] * len(y))
    space = PixelSpace.of("unit", 3)
    return Images("noise", x, torch.tensor(y), domain, space, complete("CIM", hparams), 8, domains is not None)


def test_an_image_is_compared_with_others_of_its_class_and_of_other_classes():
    y = np.array([0] * 20 + [1] * 3 + [2])
    within, across = measure.choose_partners(y, np.random.default_rng(0))
    for row in range(len(y)):
        same, other = (partners[:, row][partners[:, row] >= 0] for partners in (within, across))
        assert row not in same and set(y[same]) <= {y[row]} and y[row] not in y[other]
        assert len(set(same)) == len(same) == min(16, (y == y[row]).sum() - 1)
        assert len(set(other)) == len(other) == min(16, (y != y[row]).sum())


def test_similarities_against_one_pair_at_a_time():
    images = make_images([0, 0, 1, 1, 1, 2])
    result = measure.similarities(images, 0, CPU)
    assert len(result.within_pairs.similarity) == 2 + 6 and len(result.across_pairs.similarity) == 2 * (8 + 3)
    with torch.no_grad():
        morphed = measure._morphing(images, 0, CPU)(images.x).morphed
    for pairs in (result.within_pairs, result.across_pairs):
        expected = ms_ssim(morphed[pairs.first], images.x[pairs.second])
        assert pairs.similarity == pytest.approx(expected.numpy(), abs=1e-5)
    assert result.within.value == pytest.approx(result.within_pairs.similarity.mean())
    assert result.gap.value == pytest.approx(result.within.value - result.across.value)


def test_the_bootstrap_against_explicit_resampling():
    """A resample is a list of images; every pair of its entries counts that is a pair of different images."""
    rng = np.random.default_rng(0)
    first, second = np.nonzero(~np.eye(6, dtype=bool) & (rng.random((6, 6)) < 0.6))
    pairs = measure.Pairs(first, second, rng.random(len(first)))
    value = dict(zip(zip(first, second, strict=True), pairs.similarity, strict=True))
    resamples = [list(rng.integers(6, size=6)) for _ in range(20)] + [[2] * 6]
    counts = np.array([np.bincount(each, minlength=6) for each in resamples])
    means = measure.mean_over_pairs(pairs, counts)
    for images, mean in zip(resamples, means, strict=True):
        chosen = [value[a, b] for a in images for b in images if (a, b) in value]
        assert mean == pytest.approx(np.mean(chosen)) if chosen else np.isnan(mean)


def test_the_interval_is_that_of_images_and_not_of_pairs():
    """Images with an effect of their own: means of 30 images vary as the interval says, which pairs would not."""
    rng = np.random.default_rng(0)
    first, second = np.nonzero(~np.eye(30, dtype=bool))
    means, widths = [], []
    for _ in range(60):
        effect = rng.normal(size=30)
        pairs = measure.Pairs(first, second, effect[first] + effect[second])
        counts = rng.multinomial(30, np.full(30, 1 / 30), size=200)
        low, high = np.percentile(measure.mean_over_pairs(pairs, counts), [2.5, 97.5])
        means.append(pairs.similarity.mean())
        widths.append(high - low)
    assert np.mean(widths) == pytest.approx(2 * 1.96 * np.std(means), rel=0.25)


def test_a_draw_is_the_gradient_of_the_contrast_and_the_control_permutes_the_labels():
    images = make_images([0, 1] * 8, cim_anchors=0)
    images.x[::2] = 0.5 * images.x[::2] + 0.5 * images.x[0]  # class 0 has something in common
    before = torch.get_rng_state()
    result = measure.gradient_signal(images, 8, 40, 0, CPU)
    assert torch.equal(torch.get_rng_state(), before)
    for ratios in (result.gradient, result.direction):
        assert ratios.difference.low > 0 and abs(ratios.shuffled.value) < 0.1 * ratios.true.value
        assert len({each.value for each in ratios.shuffles}) == measure.SHUFFLES
    assert 1 / 40 < result.largest < 0.5
    again = measure.gradient_signal(images, 8, 40, 0, CPU)
    assert again == result

    morphing = measure._morphing(images, 0, CPU)
    rows = torch.arange(16)
    torch.manual_seed(3)
    gradient, _ = measure.draw(morphing, images, images.y, rows)
    step = 1e-2
    direction = gradient / gradient.norm()
    values = []
    for sign in (1, -1):
        moved = measure._morphing(images, 0, CPU)
        parameters = list(moved.network.parameters())
        with torch.no_grad():
            for each, part in zip(parameters, direction.split([p.numel() for p in parameters]), strict=True):
                each.add_(sign * step * part.view(each.shape))
        torch.manual_seed(3)
        values.append(measure.draw(moved, images, images.y, rows)[1]["contrast"].item())
    assert (values[0] - values[1]) / (2 * step) == pytest.approx(gradient.norm().item(), rel=0.02)


def test_a_batch_has_equally_many_images_of_each_domain():
    images = make_images([0, 1] * 9, domains=[0] * 12 + [1] * 6)
    for rows in measure._batches(images, 8, 3):
        assert torch.bincount(images.domain[rows]).tolist() == [4, 4] and len(set(rows.tolist())) == 8


def test_shares_of_pairs_and_anchors():
    images = make_images([0, 0, 0, 1], cim_anchors=0)
    images.x[3] = 1 - images.x[0]
    result = measure.gradient_signal(images, 4, 20, 0, CPU)
    assert result.positives == pytest.approx(0.75)
    assert 0 <= result.without_gradient[0] < 1


def test_the_difference_is_to_a_shuffle_and_not_to_their_mean():
    true = Estimate.of_t(1.0, 0.1, 50)
    exact = [Estimate.of_t(value, 0.0, 9) for value in (0.0, 0.2, 0.4, 0.6, 0.8)]
    ratios = measure.compare(true, exact)
    assert ratios.shuffled.value == pytest.approx(0.4) and ratios.shuffled.error == pytest.approx((0.1 / 5) ** 0.5)
    assert ratios.difference.error == pytest.approx((0.01 + 0.1 + 0.1 / 5) ** 0.5)
    noisy = [Estimate.of_t(each.value, 1.0, 9) for each in exact]  # what differs between shuffles is their draws
    assert measure.compare(true, noisy).difference.error == pytest.approx((0.01 + 0.1 / 5) ** 0.5)


def signal_of(true: float, low: float, high: float, difference_low: float) -> Any:
    estimate, difference = Estimate(true, low, high), Estimate(true, difference_low, high)
    ratios = measure.Ratios(estimate, [], estimate, difference)
    return measure.GradientSignal(ratios, ratios, 0.1, (0.0, 0.0), 1.0)


def test_the_sentence_says_what_the_intervals_say():
    rows = np.zeros(1, dtype=np.int64)
    pairs = measure.Pairs(rows, rows, np.zeros(1))
    similar = measure.Similarities(pairs, pairs, *[Estimate(0.1, 0.05, 0.15)] * 3)
    unlike = measure.Similarities(pairs, pairs, *[Estimate(-0.01, -0.05, 0.15)] * 3)
    strong = signal_of(1, 0.5, 1.5, 0.4)
    assert "0.100 above that across (95% interval of the difference 0.050 to 0.150). " in meaning(similar, strong)
    assert "below that across (" in meaning(unlike, strong)
    assert "difference -0.050 to 0.150): no difference is shown. " in meaning(unlike, strong)
    assert "in the mean of 50 steps" in meaning(similar, signal_of(0.02, 0.01, 0.03, 0.01))
    sentence = meaning(similar, signal_of(0.003, -0.001, 0.02, -0.01))
    assert "No class signal is shown" in sentence and "one part of signal in 50 of noise" in sentence
    assert "does not say" in sentence


def signal(*options: object) -> int:
    return cli.main(["signal", "--draws", "20", "--device", "cpu", *map(str, options)])


def class_folders(root: Path) -> Path:
    for y, name in enumerate(("cat", "dog")):
        for number in range(5):
            small_datasets.save_image(root / name / f"{number}.png", y, 10 * y + number, side=12 + number)
    return root


def test_a_dataset_of_domainbed(tmp_path, capsys):
    hparams = '{"nuisance_digits": 20, "cim_normalize": "simple"}'
    out = tmp_path / "out"
    options = ["--dataset", "NuisanceDigits", "--test_envs", 2, "--hparams", hparams]
    assert signal(*options, "--max_images", 30, "--batch_size", 12, "--output", out) == 0
    shown = capsys.readouterr().out
    assert "NuisanceDigits: 30 images of 36 x 36 pixels, 10 classes" in shown
    record = json.loads((out / "signal.json").read_text())
    assert record["hparams"]["cim_normalize"] == "simple" and record["meaning"].split()[0] in shown
    assert record["without_gradient"] == {"positive": 0, "negative": 0} and len(record["signal_to_noise"]) == 2
    lines = (out / "signal.csv").read_text().splitlines()
    assert lines[0] == "figure,value,low,high" and all(line.count(",") == 3 for line in lines)
    true = next(line for line in lines if line.startswith("signal-to-noise of gradients true"))
    assert float(true.split(",")[1]) == pytest.approx(record["signal_to_noise"]["gradient"]["true"]["value"], rel=1e-5)
    with Image.open(out / "signal.png") as image:
        assert np.asarray(image.convert("RGB")).std() > 0


def test_a_dataset_of_wilds_and_a_folder(tmp_path, capsys):
    small_datasets.waterbirds(tmp_path / "wilds")
    (tmp_path / "small.yaml").write_text("include: waterbirds\ntarget_resolution: [16, 16]\n")
    options = ["--dataset", "waterbirds", "--root_dir", tmp_path / "wilds", "--defaults", tmp_path / "small.yaml"]
    assert signal(*options, "--max_images", 20) == 0
    assert "waterbirds: 20 images of 16 x 16 pixels, 2 classes" in capsys.readouterr().out
    assert signal("--images", class_folders(tmp_path / "photos"), "--side", 14) == 0
    assert "10 images of 14 x 14 pixels, 2 classes" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "accepted is one of --dataset NAME and --images FOLDER"),
        (["--dataset", "NuisanceDigits", "--images", "photos"], "accepted is one of"),
        (["--dataset", "Nonsense"], "Nonsense"),
        (["--dataset", "waterbirds"], "give --root_dir"),
        (["--dataset", "waterbirds", "--root_dir", "photos", "--test_envs", "0"], "--test_envs does not go with"),
        (["--dataset", "waterbirds", "--root_dir", "nowhere"], "root_dir nowhere is not a folder"),
        (["--dataset", "waterbirds", "--root_dir", "photos", "--hparams", '{"nuisance_seed": 1}'], "nuisance_seed"),
        (["--dataset", "VLCSMini", "--data_dir", "nowhere"], "cim-dg data get VLCSMini"),
        (["--dataset", "VLCSMini"], "--data_dir is not given; `cim-dg data get VLCSMini"),
        (["--dataset", "VLCS"], "give --data_dir DIR"),
        (["--dataset", "NuisanceDigits", "--test_envs", "3"], "environments 0 to 2"),
        (["--dataset", "NuisanceDigits", "--test_envs", "0", "1", "2"], "one must be left"),
        (["--dataset", "NuisanceDigits", "--hparams", "{"], "--hparams is not JSON"),
        (["--dataset", "NuisanceDigits", "--hparams", "[]"], "must be a JSON object"),
        (["--dataset", "NuisanceDigits", "--hparams", '{"cim_windov": 7}'], "did you mean 'cim_window'?"),
        (["--dataset", "NuisanceDigits", "--hparams", '{"cim_scales": 9}'], "cim_scales is 9"),
        (["--dataset", "NuisanceDigits", "--max_images", "9", "--batch_size", "10"], "--batch_size is 10"),
        (["--images", "nowhere"], "there is no folder nowhere"),
        (["--images", "."], "is not in a folder CLASS"),
        (["--images", "photos", "--data_dir", "x"], "--data_dir does not go with --images"),
        (["--images", "photos", "--output", "photos/cat/0.png"], "cannot be a folder"),
        (["--images", "single"], "are of one class"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path, monkeypatch, capsys, options, message):
    class_folders(tmp_path / "photos")
    small_datasets.save_image(tmp_path / "single" / "a" / "0.png", 0, 0)
    small_datasets.save_image(tmp_path / "single" / "a" / "1.png", 0, 1)
    monkeypatch.chdir(tmp_path)
    assert signal(*options) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line


@pytest.mark.parametrize("options", [["--draws", "19"], ["--max_images", "3"], ["--side", "6"], ["--batch_size", "1"]])
def test_numbers_out_of_bounds(options, capsys):
    with pytest.raises(SystemExit) as raised:
        cli.main(["signal", "--dataset", "NuisanceDigits", *options])
    assert raised.value.code == 2 and "whole number" in capsys.readouterr().err


def test_a_fork_of_swads_form_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delattr("domainbed.datasets.get_dataset_class")
    assert signal("--dataset", "NuisanceDigits") == 2
    assert "SWAD's form" in capsys.readouterr().err
