"""`cim-dg new method`: what it writes and what it refuses."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from cim_dg import cli
from cim_dg.commands import new


def test_it_writes_the_package_and_says_what_is_next(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "inner" / "mine"
    assert cli.main(["new", "method", "MyMethod2", "--output", str(folder)]) == 0
    written = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    package = {"my_method2/__init__.py", "my_method2/MyMethod2.yaml"}
    assert written == {"pyproject.toml", "test_my_method2.py", *package}
    assert os.listdir(folder.parent) == ["mine"], "nothing else is left"
    assert folder.stat().st_mode & 0o777 == 0o777 & ~_umask(), "others may read it, as any new folder"
    out = capsys.readouterr().out
    assert "pip install ." in out and "--algorithm MyMethod2" in out
    assert list(yaml.safe_load((folder / "my_method2/MyMethod2.yaml").read_text())) == ["my_method2_weight"]
    for path in written:
        assert "$" not in (folder / path).read_text(), "a name is not filled in"


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("ConfidencePenalty", "confidence_penalty"),
        ("SCL2", "scl2"),
        ("CIM_Mine", "cim_mine"),
        ("MyVAELoss", "my_vae_loss"),
    ],
)
def test_the_package_is_named_after_the_method(name: str, module: str) -> None:
    assert new.module_name(name) == module


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("2fast", "NAME is '2fast'; accepted is a name of a Python class"),
        ("no-dash", "NAME is 'no-dash'; accepted is"),
        ("class", "NAME is 'class'; accepted is"),
        ("Lambda", "NAME is 'Lambda'; accepted is"),  # its package would be `lambda`
        ("CIM", "there is a method CIM"),
        ("cim_vib", "there is a method CIM_VIB"),
        ("Json", "there is a package json"),
    ],
)
def test_names_that_are_refused(name: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["new", "method", name, "--output", str(tmp_path / "mine")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "mine").exists()


def test_an_algorithm_of_the_harness_is_no_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from cim_dg.domainbed.plugin import upstream_algorithms

    name = sorted(upstream_algorithms())[-1]
    assert cli.main(["new", "method", name, "--output", str(tmp_path / "mine")]) == 2
    assert f"there is a method {name}" in capsys.readouterr().err


def test_folders_that_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("all of it")
    (tmp_path / "file").write_text("")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for folder, message in (("../full", "which exists"), ("../file", "which exists"), (".", "the working directory")):
        assert cli.main(["new", "method", "Mine", "--output", folder]) == 2
        assert message in capsys.readouterr().err
    assert cli.main(["new", "method", "Mine", "--output", "../file/inner"]) == 2
    assert "cannot be written" in capsys.readouterr().err
    assert sorted(os.listdir(tmp_path)) == ["file", "full", "here"] and not os.listdir(tmp_path / "here")
    assert os.listdir(tmp_path / "full") == ["thesis.tex"]


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    assert cli.main(["new", "method", "Mine", "--output", str(tmp_path / "mine")]) == 0
    assert (tmp_path / "mine" / "pyproject.toml").is_file()


def test_nothing_is_left_of_a_folder_that_cannot_be_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = Path.write_text

    def full_disk(path: Path, text: str, **options: str) -> int:
        if path.name.startswith("test_"):
            raise OSError(28, "No space left on device")
        return write(path, text, **options)

    monkeypatch.setattr(Path, "write_text", full_disk)
    assert cli.main(["new", "method", "Mine", "--output", str(tmp_path / "mine")]) == 2
    assert not os.listdir(tmp_path)
