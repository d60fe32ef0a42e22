"""`cim-dg predict` and `cim-dg export`: models of both harnesses on image files, against the harness' own pipeline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from small_datasets import MAKERS, QUICK
from torchvision import transforms
from torchvision.datasets import ImageFolder

from cim_dg import cli
from cim_dg.algorithms import methods
from cim_dg.commands import models
from cim_dg.commands.predict import probabilities
from cim_dg.errors import UserError
from cim_dg.images.reading import read_image

HPARAMS = {"batch_size": 8, "nuisance_digits": 20}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder with nine images of different sizes and modes."""
    folder = tmp_path / "images"
    for number in range(9):
        place = folder / f"class{number % 3}" / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.RandomState(number).randint(256, size=(30 + number, 40, 3)).astype(np.uint8)
        Image.fromarray(pixels).convert("L" if number == 4 else "RGB").save(place)
    return folder


def train_digits(folder: Path, algorithm: str, *words: str, **hparams: Any) -> Path:
    """A job of the stand-in on NuisanceDigits; returns its folder."""
    from domainbed.scripts import train

    flags = ["--dataset", "NuisanceDigits", "--algorithm", algorithm, "--steps", "2", "--test_envs", "2"]
    flags += ["--hparams", json.dumps(HPARAMS | hparams), "--output_dir", str(folder), "--data_dir", "none", *words]
    assert train.main(flags) == 0
    return folder


def predict(checkpoint: Path, images: Path, *words: str) -> pd.DataFrame:
    """The table that the command writes."""
    output = images.parent / "predictions.csv"
    command = ["predict", "--checkpoint", str(checkpoint), "--images", str(images), "--output", str(output), *words]
    assert cli.main(command) == 0
    return pd.read_csv(output, dtype={"prediction": str})


@pytest.mark.parametrize("algorithm", ["ERM", "CIM", "CIM_VIB", "GroupDRO"])
def test_a_model_of_domainbed_predicts_as_it_does_there(tmp_path: Path, images: Path, algorithm: str) -> None:
    job = train_digits(tmp_path / "job", algorithm)
    actual = predict(job / "model.pkl", images, "--batch_size", "4")
    # Independently: torchvision's loader and the harness' algorithm.
    from domainbed import algorithms

    saved = torch.load(job / "model.pkl")
    shape = saved["model_input_shape"]
    model = algorithms.get_algorithm_class(algorithm)(shape, 10, 2, saved["model_hparams"])
    model.load_state_dict(saved["model_dict"])
    model.eval()
    to_tensor = transforms.Compose([transforms.Resize((36, 36)), transforms.ToTensor()])
    data = ImageFolder(str(images), transform=to_tensor)
    with torch.no_grad():
        expected = model.predict(torch.stack([x for x, _ in data])).softmax(dim=1)
    assert list(actual["image"]) == [str(Path(name).relative_to(images)) for name, _ in data.samples]
    torch.testing.assert_close(
        torch.tensor(actual.filter(like="probability").to_numpy()).float(), expected, atol=2e-6, rtol=1e-4
    )
    assert list(actual["prediction"]) == [str(label) for label in expected.argmax(dim=1).tolist()]


@pytest.mark.parametrize(("name", "words"), [*((name, []) for name in sorted(methods())), ("VIB", ["--bf16"])])
def test_a_model_of_wilds_predicts_what_the_run_wrote(tmp_path: Path, name: str, words: list[str]) -> None:
    MAKERS["waterbirds"](tmp_path)
    log = tmp_path / "logs"
    command = ["wilds", "train", "--dataset", "waterbirds", "--algorithm", name, "--root_dir", str(tmp_path)]
    assert cli.main([*command, "--log_dir", str(log), "--seed", "3", *QUICK, *words]) == 0
    checkpoint = next(log.glob("*best_model.pth"))
    assert models.build(models.read(checkpoint)).bf16 is bool(words)
    actual = predict(checkpoint, tmp_path / "waterbirds_v1.0").set_index("image")["prediction"]
    metadata = pd.read_csv(tmp_path / "waterbirds_v1.0" / "metadata.csv")
    test = metadata[metadata["split"] == 2]
    written = [int(line) for line in next(log.glob("*split:test*best_pred.csv")).read_text().split()]
    assert [("landbird", "waterbird")[label] for label in written] == [actual[path] for path in test["img_filename"]]


@pytest.mark.parametrize("bf16", [False, True])
def test_predictions_are_in_the_precision_of_the_run(images: Path, bf16: bool) -> None:
    class Network(torch.nn.Module):
        def predict(self, x: torch.Tensor) -> torch.Tensor:
            assert torch.is_autocast_enabled("cpu") is bf16
            return x.mean(dim=(2, 3))

    model = models.Model(Network(), ["a", "b", "c"], 3, lambda image: torch.zeros(3, 4, 4), None, bf16)
    assert len(list(probabilities(model, sorted(images.glob("*/*.png")), 4))) == 9


def test_a_model_from_before_the_working_size_of_the_mask_is_built_without_one() -> None:
    from domainbed import algorithms, hparams_registry

    hparams = hparams_registry.default_hparams("CIM", "NuisanceDigits")
    assert hparams["cim_mask_side"] == 56
    state = algorithms.get_algorithm_class("CIM")((3, 36, 36), 10, 2, hparams).state_dict()
    about = {"kind": models.DOMAINBED, "algorithm": "CIM", "dataset": "NuisanceDigits", "classes": [], "num_domains": 2}
    about |= {"input_shape": [3, 36, 36], "num_classes": 10}
    older = {name: value for name, value in hparams.items() if name != "cim_mask_side"}
    for recorded, side in ((hparams, 56), (older, None)):
        method = models.build(models.Stored(Path("model.pkl"), {**about, "hparams": recorded}, state)).method
        assert method is not None and method.hparams["cim_mask_side"] == side


def export(folder: Path, output: Path, algorithm: str, dataset: str, *words: str) -> int:
    command = ["export", str(folder), "--algorithm", algorithm, "--dataset", dataset, "--output", str(output)]
    return cli.main([*command, *words])


def test_an_exported_model_of_domainbed_is_the_selected_one(tmp_path: Path, images: Path) -> None:
    job = train_digits(
        tmp_path / "sweep" / "a", "CIM", "--checkpoint_freq", "1", "--steps", "4", "--save_model_every_checkpoint"
    )
    assert export(tmp_path / "sweep", tmp_path / "out", "CIM", "NuisanceDigits", "--program") == 0
    about = json.loads((tmp_path / "out" / "model.json").read_text())
    records = [json.loads(line) for line in (job / "results.jsonl").read_text().splitlines()]
    best = max(records, key=lambda record: record["env0_out_acc"] + record["env1_out_acc"])
    assert about["selected"]["step"] == best["step"] and about["selected"]["test"] == best["env2_in_acc"]
    assert about["selected"]["rule"] == "iid" and about["hparams"]["nuisance_digits"] == 20
    expected = predict(job / f"model_step{best['step']}.pkl", images)
    pd.testing.assert_frame_equal(predict(tmp_path / "out", images), expected)
    program = torch.export.load(tmp_path / "out" / "model.pt2").module()
    x = torch.rand(5, 3, 36, 36)
    network: Any = models.build(models.read(tmp_path / "out")).network
    with torch.no_grad():
        torch.testing.assert_close(program(x), network.predict(x))


def test_an_exported_model_of_wilds(tmp_path: Path, images: Path) -> None:
    MAKERS["waterbirds"](tmp_path)
    log = tmp_path / "logs"
    command = ["wilds", "train", "--dataset", "waterbirds", "--algorithm", "VIB", "--root_dir", str(tmp_path)]
    assert cli.main([*command, "--log_dir", str(log), *QUICK]) == 0
    assert export(log, tmp_path / "out", "VIB", "waterbirds") == 0
    checkpoint = next(log.glob("*best_model.pth"))
    pd.testing.assert_frame_equal(predict(tmp_path / "out", images), predict(checkpoint, images))
    about = json.loads((tmp_path / "out" / "model.json").read_text())
    assert about["classes"] == ["landbird", "waterbird"] and about["selected"]["epoch"] == 0


def test_what_cannot_be_exported_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train_digits(tmp_path / "sweep" / "a", "ERM", "--skip_model_save")
    train_digits(tmp_path / "sweep" / "b", "ERM", "--trial_seed", "1")
    capsys.readouterr()
    for words, message in [
        (("VIB", "NuisanceDigits"), "there is no run of VIB on NuisanceDigits; there are ERM on NuisanceDigits"),
        (("ERM", "NuisanceDigits"), "choose one: --test_env 2 --trial 0; --test_env 2 --trial 1"),
        (("ERM", "NuisanceDigits", "--trial", "7"), "has that test environment and trial"),
        (("ERM", "NuisanceDigits", "--trial", "0"), "was not kept: run it with --save_model_every_checkpoint"),
        (("ERM", "NuisanceDigits", "--selection", "best"), "--selection is 'best'; accepted is one of iid"),
    ]:
        assert export(tmp_path / "sweep", tmp_path / "out", *words) == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "out").exists()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".out")]


def test_damaged_exports_are_refused(tmp_path: Path, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train_digits(tmp_path / "sweep" / "a", "ERM", "--save_model_every_checkpoint")
    out = tmp_path / "out"
    assert export(tmp_path / "sweep", out, "ERM", "NuisanceDigits") == 0
    whole = (out / "model.safetensors").read_bytes()
    for name, content in [
        ("model.safetensors", whole[: len(whole) // 2]),
        ("model.json", b"[]"),
        ("model.json", b'{"format": 9, "kind": "wilds"}'),
    ]:
        before = (out / name).read_bytes()
        (out / name).write_bytes(content)
        with pytest.raises(UserError, match=r"no model of `cim-dg export`|is of format 9"):
            models.read(out)
        (out / name).write_bytes(before)
    models.read(out)


def test_images_of_more_than_eight_bits(tmp_path: Path) -> None:
    values = np.linspace(0, 65535, 64, dtype=np.uint16).reshape(8, 8)
    Image.fromarray(values).save(tmp_path / "deep.png")
    read = np.asarray(read_image(tmp_path / "deep.png", "L")).astype(int)
    assert np.abs(read - values / 257).max() <= 1
    Image.fromarray(np.ones((4, 4), dtype=np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(UserError, match="values of 32 bits"):
        read_image(tmp_path / "float.tif")


def test_wrong_input_is_one_sentence(tmp_path: Path, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = train_digits(tmp_path / "job", "ERM")
    capsys.readouterr()
    command = ["predict", "--checkpoint", str(job / "model.pkl"), "--images", str(images)]
    for words, message in [
        (["--output", str(tmp_path / "no" / "p.csv")], "cannot be written: No such file"),
        (["--output", str(tmp_path / "p.csv"), "--batch_size", "0"], "--batch_size is 0"),
        (["--output", str(tmp_path / "p.csv"), "--device", "7"], "device is '7'"),
        (["--output", str(tmp_path / "p.csv"), "--checkpoint", "/dev/full"], "the checkpoint /dev/full is not a file"),
    ]:
        assert cli.main([*command, *words]) == 2
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.startswith("cim-dg: error: ") and message in error
    (images / "broken.jpg").write_bytes(b"no image")
    assert cli.main([*command, "--output", str(tmp_path / "p.csv")]) == 2
    assert "broken.jpg cannot be read" in capsys.readouterr().err
    assert not (tmp_path / "p.csv").exists()
