"""Pictures of CIM's morphs, for runs that kept their model.

Jobs that kept the morphs themselves need no model. Of others `cim-dg morph` draws the pictures in a separate process.
One process draws all of them: loading PyTorch takes seconds.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from cim_dg.results import morph_picture
from cim_dg.results.apart import run_apart
from cim_dg.results.morph_picture import FILE
from cim_dg.results.records import Records, Run
from cim_dg.results.run_facts import domains

Key = tuple[str, str, str]  # harness, data set, method

_SECONDS = 120
_SCRIPT = """
import contextlib, json, sys
from cim_dg.cli import main
for command in json.load(sys.stdin):
    with contextlib.suppress(Exception, SystemExit):  # the other pictures can be drawn
        main(command)
"""


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
    chosen: dict[Key, Run] = {}
    for run in sorted(
        records.runs, key=lambda run: (run.hparams_seed, run.trial, tuple(-env for env in run.test_envs))
    ):
        # Only CIM's methods have these hyper-parameters and a mask.
        if any(name.startswith("cim_") for name in run.hparams) and (run.folder / "model.pkl").is_file():
            chosen.setdefault((run.harness, run.dataset, run.algorithm), run)
    kept = {key: morphs.png() for key, run in chosen.items() if (morphs := morph_picture.read(run.folder / FILE))}
    drawn = _draw({key: run for key, run in chosen.items() if key not in kept})
    return [Picture(_caption(run), png) for key, run in chosen.items() if (png := kept.get(key) or drawn.get(key))]


def _draw(chosen: dict[Key, Run]) -> dict[Key, bytes]:
    """The pictures of these runs' models; those that `cim-dg morph` cannot draw are left out."""
    if not chosen:
        return {}
    runs = list(chosen.values())
    with tempfile.TemporaryDirectory() as folder:
        outputs = [Path(folder) / f"{number}.png" for number in range(len(runs))]
        commands = [
            ["morph", "--checkpoint", str(run.folder / "model.pkl"), "--output", str(output)]
            + (["--images", str(images)] if (images := _images(run)) else [])
            for run, output in zip(runs, outputs, strict=True)
        ]
        run_apart(_SCRIPT, commands, _SECONDS * len(runs))
        return {key: output.read_bytes() for key, output in zip(chosen, outputs, strict=True) if output.is_file()}


def _caption(run: Run) -> str:
    where = f"{run.dataset} ({run.harness}), test domain {', '.join(domains(run))}, trial {run.trial}"
    return f"x, m and psi(x) = m * x: {run.algorithm} on {where}, last step"


def _images(run: Run) -> Path | None:
    """The folder of the test environment's images, if the data set consists of folders and still exists."""
    root = Path(str(run.args.get("data_dir"))) / str(run.args.get("dataset"))
    environments = sorted(path for path in root.glob("*") if path.is_dir()) if root.is_dir() else []
    return environments[run.test_envs[0]] if run.test_envs and run.test_envs[0] < len(environments) else None
