"""The package, as each way of installing it leaves it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROBE = """
import sys, cim_dg.algorithms, cim_dg.hparams, cim_dg.results
from cim_dg import CIM, triplet_ms_ssim
assert cim_dg.hparams.defaults(cim_dg.hparams.space("CIM"))["cim_lambda"] > 0
from importlib.util import find_spec
assert find_spec("algorithms") is None, "a bare `import algorithms` would shadow WILDS' own"
import domainbed.algorithms
print(domainbed.STANDIN, domainbed.algorithms.CIM.__name__)
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A copy of the sources, so that building leaves nothing in the checkout."""
    copy = tmp_path_factory.mktemp("source") / "cim-dg"
    skip = shutil.ignore_patterns(".git", ".venv", "build", "dist", "runs", "*.egg-info", "__pycache__", ".*_cache")
    shutil.copytree(ROOT, copy, ignore=skip)
    return copy


def make_environment(folder: Path) -> Path:
    """An environment without cim-dg whose other packages are those of this one; returns its python."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    site = next(folder.glob("lib/python*/site-packages"))
    # Only the packages: this environment's own .pth files (a cim-dg in it, say) are not executed.
    (site / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin" / "python"


def pip(python: Path, *arguments: str | Path) -> None:
    command = [sys.executable, "-m", "pip", "--python", python, "--quiet", *arguments]
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["wheel", "sdist", "editable", "folder"])
def test_installed_imported_and_uninstalled(source, tmp_path, kind):
    python = make_environment(tmp_path / "venv")
    site = next((tmp_path / "venv").glob("lib/python*/site-packages"))
    target: list[str | Path] = [source]
    if kind == "editable":
        target = ["--editable", source]
    elif kind in ("wheel", "sdist"):
        build = f"from setuptools import build_meta; build_meta.build_{kind}({str(tmp_path)!r})"
        subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True)
        target = [next(tmp_path.glob("*.whl" if kind == "wheel" else "*.tar.gz"))]
    # Of this environment's cim-dg, if it has one, pip would say that the requirement is satisfied.
    pip(python, "install", "--no-deps", "--no-build-isolation", "--force-reinstall", "--ignore-installed", *target)
    assert (site / "cim_dg_autoload.pth").exists()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    run = subprocess.run([python, "-c", PROBE], cwd=elsewhere, capture_output=True, text=True, check=False)
    assert run.stdout.split() == ["True", "CIM"], run.stderr
    pip(python, "uninstall", "--yes", "cim-dg")
    assert not (site / "cim_dg_autoload.pth").exists()
    assert not (site / "cim_dg").exists()


def test_imported_from_the_root_of_a_bare_checkout():
    """`-S` switches off every installation of cim-dg there might be; the packages it needs are put back."""
    code = (
        f"import sys; sys.path.append({sysconfig.get_path('purelib')!r})\n"
        "import cim_dg.hparams\nfrom cim_dg import PixelSpace\nprint(cim_dg.__file__)"
    )
    run = subprocess.run([sys.executable, "-S", "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == str(ROOT / "cim_dg" / "__init__.py")
