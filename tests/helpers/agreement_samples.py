"""What the real DomainBed and the stand-in are compared on, both with our plugin: hparams, plans, and training.

`make_golden.py` has the real one do it, `test_agreement.py` the stand-in. Run as a script (`from_real` does), this
prints what the `domainbed` that it finds gives.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from precision import computing_in

from cim_dg import autoload

REPOSITORY = Path(__file__).parents[2]
GOLDEN = REPOSITORY / "tests" / "domainbed" / "golden"

OURS = ["CIM", "CIM_VIB", "SCL", "VIB", "CCSA", "DCoDR", "TransformInvariance"]
BASELINES = ["ERM", "GroupDRO"]
SPACES = [(name, dataset) for name in OURS for dataset in ("VLCS", "VLCSMini", "ColoredMNIST", "Debug28")]
SPACES += [(name, "NuisanceDigits") for name in [*OURS, *BASELINES]]
EXAMPLE = "CIM NuisanceDigits"

_SWEEP = f"launch --algorithms {' '.join(OURS)} ERM --datasets NuisanceDigits VLCS --n_hparams 2 --n_trials 2"
_SWEEP += " --output_dir sweep --data_dir data --command_launcher dummy --skip_confirmation"
PLANS = {"pairs": _SWEEP, "single": f"{_SWEEP} --single_test_envs --steps 100"}

UPDATES, EVERY = 50, 5
BATCH, SIDE, CLASSES = 8, 24, 4


def hparams(algorithm: str, dataset: str) -> list[dict[str, Any]]:
    """The default hyper-parameters, then the random ones of the seeds 0 to 19."""
    from domainbed import hparams_registry as registry

    drawn = [registry.random_hparams(algorithm, dataset, seed) for seed in range(20)]
    return [
        {name: _plain(value) for name, value in one.items()}
        for one in (registry.default_hparams(algorithm, dataset), *drawn)
    ]


def _plain(value: Any) -> Any:
    value = value.item() if hasattr(value, "item") else value
    # The last digits of a power are the C library's.
    return float(f"{value:.12g}") if isinstance(value, float) else value


def all_hparams() -> dict[str, Any]:
    """A digest for each method and dataset, and one of them in full."""
    found = {f"{algorithm} {dataset}": hparams(algorithm, dataset) for algorithm, dataset in SPACES}
    return {"sha256": {name: _digest(value) for name, value in found.items()}, EXAMPLE: found[EXAMPLE]}


def planned(printed: str) -> dict[str, Any]:
    """Of the commands that a sweep with the dummy launcher has printed: how many, a digest, and a few."""
    commands = sorted(line for line in printed.splitlines() if line.startswith("Dummy"))
    return {"jobs": len(commands), "sha256": _digest(commands), "some": commands[::50]}


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def trajectory(name: str, dtype: torch.dtype) -> dict[str, Any]:
    """The loss of every fifth update of algorithm `name`, the first included, and logits before and after them all.

    The golden ones are in float64: the last digit depends on the processor and on the order of a sum, and training
    magnifies it. Seen on NuisanceDigits in float32: 1e-3 in a loss after 40 updates; here in float64: below 1e-9.
    """
    from domainbed import algorithms, hparams_registry

    with computing_in(dtype):
        generator = torch.Generator().manual_seed(0)
        torch.manual_seed(0)
        shape = (3, SIDE, SIDE)
        hparams = hparams_registry.default_hparams(name, "NuisanceDigits")
        algorithm = algorithms.get_algorithm_class(name)(shape, CLASSES, 2, hparams)
        probe, _ = _minibatch(generator)
        logits = [_predictions(algorithm, probe)]
        losses = []
        for _ in range(UPDATES):
            losses.append(algorithm.update([_minibatch(generator), _minibatch(generator)])["loss"])
        return {"losses": losses[::EVERY], "logits": [*logits, _predictions(algorithm, probe)]}


def _minibatch(generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Coarse random squares, brighter in the corner of their class. Made from integers: the same on any machine."""
    y = torch.randint(CLASSES, (BATCH,), generator=generator)
    coarse = torch.randint(216, (BATCH, 3, 6, 6), generator=generator)
    for image, label in zip(coarse, y.tolist(), strict=True):
        row, column = divmod(label, 2)
        image[:, 3 * row : 3 * row + 3, 3 * column : 3 * column + 3] += 40
    fine = coarse.repeat_interleave(SIDE // 6, dim=2).repeat_interleave(SIDE // 6, dim=3)
    return fine.to(torch.get_default_dtype()) / 255, y


def _predictions(algorithm: Any, x: torch.Tensor) -> list[list[float]]:
    algorithm.eval()
    with torch.no_grad():
        logits = algorithm.predict(x).tolist()
    algorithm.train()
    return logits


def from_real(root: Path) -> dict[str, Any]:
    """Everything, from the DomainBed in `root`: the golden files by name, and trajectories in float32."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(map(str, [root, REPOSITORY])),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
    }
    # As an installation does it at start-up: so that a bare checkout will do.
    sweep = "from cim_dg import autoload; autoload.install(); import runpy; "
    sweep += "runpy.run_module('domainbed.scripts.sweep', run_name='__main__', alter_sys=True)"

    with tempfile.TemporaryDirectory() as scratch:

        def run(*command: str) -> str:
            done = subprocess.run(
                [sys.executable, *command], cwd=scratch, env=environment, capture_output=True, text=True
            )
            if done.returncode:
                raise SystemExit(f"{' '.join(command)} failed ({done.returncode}):\n{done.stdout}{done.stderr}")
            return done.stdout

        plans = {}
        for name, flags in PLANS.items():
            plans[name] = planned(run("-c", sweep, *flags.split()))
        return {**json.loads(run(str(Path(__file__).resolve()))), "plans": plans}


def _everything() -> dict[str, Any]:
    import domainbed

    assert not hasattr(domainbed, "STANDIN")
    names = [*OURS, *BASELINES]
    return {
        "hparams": all_hparams(),
        "trajectories": {name: trajectory(name, torch.float64) for name in names},
        "float32": {name: trajectory(name, torch.float32) for name in names},
    }


if __name__ == "__main__":
    autoload.install()
    torch.set_num_threads(1)
    print(json.dumps(_everything()))
