"""Pictures of CIM's morphs, for runs that kept their model.

`cim-dg morph` draws them in a separate process, because reading results must not need the training code.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from cim_dg.results.records import Records, Run
from cim_dg.results.run_facts import domains

_SECONDS = 120


@dataclass(frozen=True)
class Picture:
    """A PNG of x, m and psi(x), and which model drew it."""

    caption: str
    png: bytes


def morph_pictures(records: Records) -> list[Picture]:
    """A picture for each data set and method with a transformation network that kept a model.

    The model is that of the default hparams, the first trial and the last test domain, which is the data set's
    hardest.
    """
    chosen: dict[tuple[str, str, str], Run] = {}
    for run in sorted(
        records.runs, key=lambda run: (run.hparams_seed, run.trial, tuple(-env for env in run.test_envs))
    ):
        # Only CIM's methods have these hyper-parameters and a mask.
        if any(name.startswith("cim_") for name in run.hparams) and (run.folder / "model.pkl").is_file():
            chosen.setdefault((run.harness, run.dataset, run.algorithm), run)
    return [picture for run in chosen.values() if (picture := _draw(run)) is not None]


def _draw(run: Run) -> Picture | None:
    """The picture of a run's model; None if `cim-dg morph` cannot draw it (for example, if the data set is missing)."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "morph.png"
        command = [
            sys.executable,
            "-m",
            "cim_dg.cli",
            "morph",
            "--checkpoint",
            str(run.folder / "model.pkl"),
            "--output",
            str(output),
        ]
        if images := _images(run):
            command += ["--images", str(images)]
        try:
            done = subprocess.run(command, capture_output=True, timeout=_SECONDS, check=False)
        except subprocess.TimeoutExpired:
            return None
        if done.returncode or not output.is_file():
            return None
        where = f"{run.dataset} ({run.harness}), test domain {', '.join(domains(run))}, trial {run.trial}"
        return Picture(f"x, m and psi(x) = m * x: {run.algorithm} on {where}, last step", output.read_bytes())


def _images(run: Run) -> Path | None:
    """The folder of the test environment's images, if the data set consists of folders and still exists."""
    root = Path(str(run.args.get("data_dir"))) / run.dataset
    environments = sorted(path for path in root.glob("*") if path.is_dir()) if root.is_dir() else []
    return environments[run.test_envs[0]] if run.test_envs and run.test_envs[0] < len(environments) else None
