"""The package, as each way of installing it leaves it, and what the interpreter reads at start-up."""

from __future__ import annotations

import inspect
import pkgutil
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TORCH = find_spec("torch")
assert TORCH is not None and TORCH.origin is not None
OTHERS = str(Path(TORCH.origin).parents[1])
"""Where the packages that cim-dg needs are installed."""
STARTUP_FILES = ("cim_dg_autoload.pth", "cim_dg_autoload.start")
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
    (site / "others.pth").write_text(OTHERS + "\n")
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
        build = [sys.executable, "-m", "build", "--no-isolation", f"--{kind}", "--outdir", tmp_path]
        subprocess.run(build, cwd=source, check=True, capture_output=True)
        target = [next(tmp_path.glob("*.whl" if kind == "wheel" else "*.tar.gz"))]
    # Of this environment's cim-dg, if it has one, pip would say that the requirement is satisfied.
    pip(python, "install", "--no-deps", "--no-build-isolation", "--force-reinstall", "--ignore-installed", *target)
    for name in STARTUP_FILES:
        assert (site / name).read_bytes() == (ROOT / "startup" / name).read_bytes()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    run = subprocess.run([python, "-c", PROBE], cwd=elsewhere, capture_output=True, text=True, check=False)
    assert run.stdout.split() == ["True", "CIM"], run.stderr
    pip(python, "uninstall", "--yes", "cim-dg")
    assert not any((site / name).exists() for name in STARTUP_FILES)
    assert not (site / "cim_dg").exists()


def test_the_start_file_names_a_callable_that_takes_no_argument():
    """PEP 829: each line is `package.module:callable`, resolved as pkgutil does, and called without arguments."""
    lines = (ROOT / "startup" / "cim_dg_autoload.start").read_text(encoding="utf-8-sig").splitlines()
    assert lines == ["cim_dg.autoload:install"]
    inspect.signature(pkgutil.resolve_name(lines[0])).bind()


def test_imported_from_the_root_of_a_bare_checkout():
    """`-S` switches off every installation of cim-dg there might be; the packages it needs are put back."""
    code = (
        f"import sys; sys.path.append({OTHERS!r})\n"
        "import cim_dg.hparams\nfrom cim_dg import PixelSpace\nprint(cim_dg.__file__)"
    )
    run = subprocess.run([sys.executable, "-S", "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == str(ROOT / "cim_dg" / "__init__.py")
