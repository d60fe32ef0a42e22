"""The real DomainBed and the stand-in are compared on this, both with our plugin: hparams, plans, and training.

`make_golden.py` runs the real DomainBed, `test_agreement.py` the stand-in. As a script (see `from_real`), this module
prints the results of the `domainbed` on its path.
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
        {name: _plain(value) for name, value in values.items()}
        for values in (registry.default_hparams(algorithm, dataset), *drawn)
    ]


def _plain(value: Any) -> Any:
    value = value.item() if hasattr(value, "item") else value
    # The last digits of a power depend on the C library.
    return float(f"{value:.12g}") if isinstance(value, float) else value


def all_hparams() -> dict[str, Any]:
    """A digest for each method and dataset, and the values of EXAMPLE."""
    values = {f"{algorithm} {dataset}": hparams(algorithm, dataset) for algorithm, dataset in SPACES}
    return {"sha256": {name: _digest(value) for name, value in values.items()}, EXAMPLE: values[EXAMPLE]}


def planned(printed: str) -> dict[str, Any]:
    """A summary of the commands that the dummy launcher has printed: their number, a digest, and every 50th."""
    commands = sorted(line for line in printed.splitlines() if line.startswith("Dummy"))
    return {"jobs": len(commands), "sha256": _digest(commands), "some": commands[::50]}


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def trajectory(name: str, dtype: torch.dtype) -> dict[str, Any]:
    """Train algorithm `name` for UPDATES: the loss of every fifth update, and logits before and after training.

    The golden trajectories are in float64. On NuisanceDigits in float32, losses differ by 1e-3 after 40 updates if sums
    have another order. Here in float64, losses on SSE4.1 and AVX2 differ by 8e-12 or less, logits by 1e-10.
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
    """Coarse random squares, brighter in the corner of their class; integers at first, so equal on every machine."""
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
    """The golden files by name, and trajectories in float32, computed by the DomainBed in `root`."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(map(str, [root, REPOSITORY])),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
    }
    # An installation does this at start-up. Done here, the tests also run in a bare checkout.
    sweep = "from cim_dg import autoload; autoload.install(); import runpy; "
    sweep += "runpy.run_module('domainbed.scripts.sweep', run_name='__main__', alter_sys=True)"

    with tempfile.TemporaryDirectory() as scratch:

        def run(*command: str) -> str:
            process = subprocess.run(
                [sys.executable, *command], cwd=scratch, env=environment, capture_output=True, text=True
            )
            if process.returncode:
                raise SystemExit(
                    f"{' '.join(command)} failed ({process.returncode}):\n{process.stdout}{process.stderr}"
                )
            return process.stdout

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
