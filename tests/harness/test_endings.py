"""What a harness' program prints and returns when one of our errors ends it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import {package}
from cim_dg.harness.endings import end_in_a_sentence
end_in_a_sentence()
end_in_a_sentence()  # a second registration, of another module
from cim_dg.errors import RunError, UserError
raise {error}
"""


def run(folder: Path, package: str, error: str) -> subprocess.CompletedProcess[str]:
    """Run PACKAGE.train, which raises `error`, as `python -m`."""
    (folder / package).mkdir()
    (folder / package / "__init__.py").touch()
    (folder / package / "train.py").write_text(PROGRAM.format(package=package, error=error))
    environment = os.environ | {"CIM_DG_AUTOLOAD": "0"}
    command = [sys.executable, "-m", f"{package}.train"]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("error", "code"), [("UserError('x is -1')", 2), ("RunError('x is -1')", 1)])
def test_an_error_of_ours_ends_a_harness_with_a_sentence(tmp_path: Path, error: str, code: int) -> None:
    done = run(tmp_path, "subpopbench", error)
    assert (done.returncode, done.stderr) == (code, "error: x is -1\n")


@pytest.mark.parametrize(("package", "error"), [("subpopbench", "ValueError('x')"), ("mine", "UserError('x')")])
def test_other_errors_and_other_programs_keep_their_traceback(tmp_path: Path, package: str, error: str) -> None:
    done = run(tmp_path, package, error)
    assert done.returncode == 1 and done.stderr.startswith("Traceback")


@pytest.mark.harness
def test_a_bad_hyper_parameter_of_a_real_domainbed(tmp_path: Path, domainbed_root: Path) -> None:
    flags = ["--dataset", "Debug28", "--algorithm", "CIM", "--steps", "2", "--output_dir", str(tmp_path / "out")]
    hparams = ["--hparams", '{"cim_lambda": -1, "batch_size": 8}', "--data_dir", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "domainbed.scripts.train", *flags, *hparams],
        cwd=domainbed_root,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    # DomainBed sends its stderr to stdout.
    assert "Traceback" not in done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "error: cim_lambda is -1; accepted is a number of at least 0"
    assert (tmp_path / "out" / "err.txt").read_text().splitlines()[-1].startswith("error: cim_lambda is -1")
