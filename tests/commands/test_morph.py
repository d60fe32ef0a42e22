"""`cim-dg morph`: the picture, the checkpoints it reads, and what it refuses."""

from __future__ import annotations

import importlib
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from cim_dg import cli
from cim_dg.algorithms import CIM, REGISTRY
from cim_dg.commands import models
from cim_dg.commands.morph import folder_images, morph_figure
from cim_dg.domainbed.datasets import nuisance_environments
from cim_dg.errors import UserError
from cim_dg.nn.networks import SmallCNN
from cim_dg.nn.pixels import PixelSpace


def make_cim(channels: int = 3, space: str = "unit") -> CIM:
    return CIM(
        SmallCNN(channels),
        lambda n: torch.nn.Linear(n, 2),
        PixelSpace.of(space, channels),
        2,
        2,
        {"cim_mask_initial": 0.25},
    )


def pictures_in(path: Path) -> np.ndarray:
    """The picture's colours, (H, W, 3) in [0, 1]."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")) / 255


def has_colour(picture: np.ndarray, colour: tuple[float, float, float]) -> bool:
    """Whether a good part of the picture has that colour."""
    return bool((np.abs(picture - colour).max(axis=2) < 0.03).mean() > 0.02)


def test_the_picture_shows_the_pixels_the_mask_and_their_product(tmp_path: Path) -> None:
    method = make_cim(space="imagenet")
    torch.nn.init.zeros_(method.morphing.network.head.weight)  # a mask of a quarter everywhere
    pixels = torch.tensor([0.9, 0.1, 0.6]).view(1, 3, 1, 1).expand(2, 3, 16, 16)
    morph_figure(method, method.pixel_space.from_pixels(pixels), tmp_path / "morph.png", ["one", "two"])
    picture = pictures_in(tmp_path / "morph.png")
    assert has_colour(picture, (0.9, 0.1, 0.6))
    assert has_colour(picture, (0.9 / 4, 0.1 / 4, 0.6 / 4))
    assert has_colour(picture, matplotlib.colormaps["viridis"](0.25)[:3])


@pytest.mark.parametrize(("channels", "mask"), [(1, "shared"), (2, "shared"), (3, "each"), (5, "each")])
def test_any_number_of_channels_can_be_drawn(tmp_path: Path, channels: int, mask: str) -> None:
    method = make_cim(channels)
    method.morphing = type(method.morphing)(method.pixel_space, {**method.hparams, "cim_mask_channels": mask})
    morph_figure(method, torch.rand(1, channels, 12, 9), tmp_path / "morph.png")
    assert pictures_in(tmp_path / "morph.png").std() > 0


def test_drawing_leaves_the_method_and_matplotlib_as_they_were(tmp_path: Path) -> None:
    method, images = make_cim().train(), torch.rand(1, 3, 16, 16)
    before = {name: value.clone() for name, value in method.state_dict().items()}
    settings = dict(matplotlib.rcParams)
    state = torch.get_rng_state()
    morph_figure(method, images, tmp_path / "morph.png")
    assert method.training and dict(matplotlib.rcParams) == settings and torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in method.state_dict().items())
    assert all(parameter.grad is None for parameter in method.parameters())


def save_checkpoint(folder: Path, algorithm: str = "CIM", dataset: str = "NuisanceDigits", **changes: Any) -> Path:
    """What domainbed.scripts.train leaves, of a model that has not been trained."""
    torch.manual_seed(0)
    registry, algorithms, datasets = (
        importlib.import_module(f"domainbed.{name}") for name in ("hparams_registry", "algorithms", "datasets")
    )
    made = datasets.get_dataset_class(dataset)
    hparams = {**registry.default_hparams(algorithm, dataset), **changes}
    model = algorithms.get_algorithm_class(algorithm)(made.INPUT_SHAPE, 10, 2, hparams)
    contents = {
        "args": {"algorithm": algorithm, "dataset": dataset, "test_envs": [2]},
        "model_input_shape": made.INPUT_SHAPE,
        "model_num_classes": 10,
        "model_num_domains": 2,
        "model_hparams": hparams,
        "model_dict": model.state_dict(),
    }
    torch.save(contents, folder / "model.pkl")
    return folder / "model.pkl"


def morph(checkpoint: Path, *options: object) -> int:
    return cli.main(
        ["morph", "--checkpoint", str(checkpoint), "--output", str(checkpoint.parent / "out.png"), *map(str, options)]
    )


@pytest.mark.parametrize("algorithm", ["CIM", "CIM_VIB"])
def test_a_checkpoint_is_rebuilt_as_it_was_and_drawn(tmp_path: Path, algorithm: str) -> None:
    checkpoint = save_checkpoint(tmp_path, algorithm)
    stored = models.read(checkpoint)
    torch.manual_seed(1)
    method = models.build(stored).method
    assert method is not None
    saved = {name.removeprefix("method."): value for name, value in stored.state.items()}
    assert all(torch.equal(value, saved[name]) for name, value in method.state_dict().items())
    assert morph(checkpoint, "--count", 1) == 0
    assert pictures_in(tmp_path / "out.png").std() > 0


def test_pretrained_weights_are_not_sought_for_a_checkpoint_that_replaces_them(tmp_path: Path) -> None:
    resnet: dict[str, Any] = {"resnet18": True, "resnet50_augmix": False, "weights": "random"}
    checkpoint = save_checkpoint(tmp_path, dataset="Debug224", **resnet)
    contents = torch.load(checkpoint)
    del contents["model_hparams"]["weights"]  # the real DomainBed has no such name: it downloads them
    torch.save(contents, checkpoint)
    Image.new("RGB", (30, 20)).save(tmp_path / "black.png")
    assert morph(checkpoint, "--images", tmp_path) == 0
    assert pictures_in(tmp_path / "out.png").std() > 0


@pytest.mark.harness
def test_a_checkpoint_of_the_real_domainbed_is_drawn_by_the_stand_in(tmp_path: Path, domainbed_root: Path) -> None:
    script = """
import runpy
from cim_dg import autoload
autoload.install()
runpy.run_module("domainbed.scripts.train", run_name="__main__")
"""
    path = os.pathsep.join([str(domainbed_root), str(Path(__file__).parents[2])])
    options = "--dataset NuisanceDigits --algorithm CIM --hparams_seed 3 --test_envs 1 --steps 2 --output_dir"
    done = subprocess.run(
        [sys.executable, "-c", script, "--data_dir", str(tmp_path), *options.split(), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "stand-in" not in done.stderr
    assert morph(tmp_path / "model.pkl") == 0
    assert pictures_in(tmp_path / "out.png").std() > 0


def test_images_default_to_the_test_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr("cim_dg.commands.morph.morph_figure", lambda *arguments: drawn.extend(arguments))
    assert morph(save_checkpoint(tmp_path, nuisance_digits=20), "--count", 5) == 0
    expected = nuisance_environments(count=20)[2]
    assert torch.allclose(drawn[1], expected.images[:5])
    assert drawn[3] == [f"new: {label}" for label in expected.labels[:5].tolist()]


def test_images_of_a_folder_are_taken_evenly_and_resized(tmp_path: Path) -> None:
    for index in range(9):
        folder = tmp_path / f"class{index // 3}"
        folder.mkdir(exist_ok=True)
        Image.new("RGB", (10 + index, 8), (20 * index, 0, 255)).save(folder / f"{index}.png")
    (tmp_path / "notes.txt").write_text("no image")
    pixels, names = folder_images(tmp_path, a_model((3, 6, 4)), 3)
    assert names == ["class0\n0", "class1\n4", "class2\n8"] and pixels.shape == (3, 3, 6, 4)
    assert pixels[1, :, 3, 2].tolist() == pytest.approx([80 / 255, 0, 1])
    grey, _ = folder_images(tmp_path, a_model((1, 6, 4)), 100)
    assert grey.shape == (9, 1, 6, 4)


def test_images_reach_the_model_in_its_pixel_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (5, 5), (255, 0, 0)).save(tmp_path / "red.png")
    drawn: list[Any] = []
    monkeypatch.setattr("cim_dg.commands.morph.morph_figure", lambda *arguments: drawn.extend(arguments))
    assert morph(save_checkpoint(tmp_path, pixel_space="imagenet"), "--images", tmp_path) == 0
    red = [(1 - 0.485) / 0.229, -0.456 / 0.224, -0.406 / 0.225]
    assert drawn[1].shape == (1, 3, 36, 36) and drawn[1][0, :, 0, 0].tolist() == pytest.approx(red, abs=1e-5)


def a_model(shape: tuple[int, int, int]) -> models.Model:
    """A model of images of `shape` whose harness feeds pixels as they are."""
    prepare = transforms.Compose([transforms.Resize(shape[1:]), transforms.ToTensor()])
    return models.Model(torch.nn.Identity(), ["a", "b"], shape[0], prepare, None)


def one_line_error(capsys: pytest.CaptureFixture[str]) -> str:
    error = capsys.readouterr().err
    assert error.startswith("cim-dg: error: ") and error.count("\n") == 1
    return error


def test_files_that_are_no_checkpoint_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert morph(tmp_path / "none.pkl") == 2
    assert "none.pkl cannot be read: No such file" in one_line_error(capsys)
    (tmp_path / "text.pkl").write_text("hello")
    assert morph(tmp_path / "text.pkl") == 2
    assert "text.pkl is no checkpoint that torch.load takes as safe" in one_line_error(capsys)
    torch.save({"epoch": 3}, tmp_path / "other.pkl")
    assert morph(tmp_path / "other.pkl") == 2
    assert "other.pkl is no model.pkl of domainbed.scripts.train" in one_line_error(capsys)
    torch.save([object], tmp_path / "unsafe.pkl")
    assert morph(tmp_path / "unsafe.pkl") == 2
    assert "takes as safe" in one_line_error(capsys)


@pytest.mark.parametrize("algorithm", ["ERM", "VIB"])
def test_an_algorithm_without_a_mask_is_refused(
    tmp_path: Path, algorithm: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert morph(save_checkpoint(tmp_path, algorithm)) == 2
    having = ", ".join(name for name in REGISTRY if name.startswith("CIM"))
    assert f"{algorithm} has no mask to draw; the algorithms that have one are {having}" in one_line_error(capsys)


def test_a_method_without_a_mask_cannot_be_drawn(tmp_path: Path) -> None:
    method = REGISTRY["ERM"](SmallCNN(3), lambda n: torch.nn.Linear(n, 2), PixelSpace.of("unit", 3), 2)
    with pytest.raises(UserError, match="ERM has no mask"):
        morph_figure(method, torch.rand(1, 3, 16, 16), tmp_path / "morph.png")


def test_other_parameters_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = save_checkpoint(tmp_path)
    contents = torch.load(checkpoint)
    contents["model_hparams"]["cim_width"] = 8
    torch.save(contents, checkpoint)
    assert morph(checkpoint) == 2
    assert "model.pkl does not fit CIM as it is built here" in one_line_error(capsys)


def test_without_images_other_data_sets_ask_for_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert morph(save_checkpoint(tmp_path, dataset="Debug28")) == 2
    assert "--images DIR is needed: the model was trained on Debug28" in one_line_error(capsys)


def test_bad_images_and_options_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = save_checkpoint(tmp_path)
    empty = tmp_path / "empty"
    empty.mkdir()
    for options, message in [
        (("--count", 0), "--count is 0"),
        (("--output", tmp_path / "o.jpg"), "o.jpg'; accepted is a name that ends in .png"),
        (("--images", tmp_path / "none"), "there is no folder"),
        (("--images", empty), "there is no image in"),
        (("--output", tmp_path / "none" / "out.png"), "cannot be written to"),
    ]:
        assert morph(checkpoint, "--count", 1, *options) == 2
        assert message in one_line_error(capsys)
    (empty / "broken.jpg").write_bytes(b"no JPEG")
    assert morph(checkpoint, "--images", empty) == 2
    assert "broken.jpg cannot be read" in one_line_error(capsys)
    with pytest.raises(UserError, match="2 channels"):
        folder_images(empty, a_model((2, 28, 28)), 1)


@pytest.mark.parametrize("name", ["$\\frac{1$", "$x", "a\nb", os.fsdecode(b"caf\xe9"), "x" * 200, "\N{SNOWMAN}"])
def test_any_name_of_an_image_is_drawn(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    try:
        Image.new("RGB", (28, 28)).save(folder / f"{name}.png")
    except UnicodeEncodeError:  # Pillow takes the name as text
        Image.new("RGB", (28, 28)).save(folder / "plain.png")
        os.rename(folder / "plain.png", os.fsencode(folder / f"{name}.png"))
    images, names = folder_images(folder, a_model((3, 28, 28)), 1)
    morph_figure(make_cim(), images, tmp_path / "out.png", names)
    assert has_colour(pictures_in(tmp_path / "out.png"), (0, 0, 0))
    names[0].encode("utf-8")


@pytest.mark.parametrize("side", [20_000, 100_000])
def test_an_image_of_too_many_pixels_is_refused_before_it_is_decoded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], side: int
) -> None:
    header = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    data = struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "large.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk + data)
    assert morph(save_checkpoint(tmp_path), "--images", tmp_path / "images") == 2
    assert "large.png is too large; accepted are at most 178,956,970 pixels" in one_line_error(capsys)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "text"])
def test_weights_that_are_no_numbers_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], value: object
) -> None:
    checkpoint = save_checkpoint(tmp_path)
    contents = torch.load(checkpoint)
    name = next(iter(contents["model_dict"]))
    contents["model_dict"][name] = torch.full((2,), value) if isinstance(value, float) else value
    torch.save(contents, checkpoint)
    assert morph(checkpoint) == 2
    assert f"holds weights that are not finite numbers (the first is {name})" in one_line_error(capsys)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("args", [1]),
        ("model_hparams", None),
        ("model_dict", 5),
        ("model_num_classes", "two"),
        ("model_num_classes", 10**12),
        ("model_num_domains", -1),
        ("model_input_shape", 28),
        ("model_input_shape", (3, 28, "x")),
    ],
)
def test_a_checkpoint_with_another_type_in_it_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, value: object
) -> None:
    checkpoint = save_checkpoint(tmp_path)
    torch.save(torch.load(checkpoint) | {name: value}, checkpoint)
    assert morph(checkpoint) == 2
    assert f"its {name} is of another form" in one_line_error(capsys)
