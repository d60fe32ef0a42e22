"""The inputs on which the stand-in is compared with the real DomainBed: generated results, images and command flags.

`make_golden.py` runs the real DomainBed on these inputs, the tests run the stand-in.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

GOLDEN = Path(__file__).parents[1] / "domainbed" / "standin" / "golden"

SWEEP = "--n_hparams 2 --n_trials 2 --output_dir sweep --data_dir data --command_launcher dummy"
PAIRS = f"launch --datasets Debug28 VLCS --algorithms ERM GroupDRO {SWEEP}"
SINGLE = f"launch --datasets RotatedMNIST --algorithms ERM --single_test_envs --steps 5 --skip_confirmation {SWEEP}"
SINGLE_HPARAMS = '{"lr": 0.01, "resnet18": true}'
RUNS = {
    "debug": "--dataset Debug28 --test_envs 1 --steps 6 --checkpoint_freq 4 --seed 3 --trial_seed 2",
    "coloured": "--dataset ColoredMNIST --test_envs 2 --steps 5 --checkpoint_freq 3 --seed 1 --trial_seed 1",
    "random": "--dataset ColoredMNIST --test_envs 0 --steps 3 --checkpoint_freq 2 --hparams_seed 2 --trial_seed 1",
    "adapting": "--dataset ColoredMNIST --test_envs 0 1 --steps 4 --task domain_adaptation --uda_holdout_fraction 0.3",
}
RUN_HPARAMS = {
    "debug": '{"batch_size": 4}',
    "coloured": '{"batch_size": 4}',
    "random": '{"batch_size": 4}',
    "adapting": '{"batch_size": 4, "class_balanced": true}',
}
TOP = "--dataset ColoredMNIST --algorithm GroupDRO --test_env 1"


def write_sweep(folder: Path) -> None:
    """Write results of three methods on two data sets, with three trials of three hparams seeds.

    They have what makes selection hard: ties, a NaN, missing jobs (once all jobs of a method on an environment), and
    pairs of test environments.
    """
    rng = np.random.RandomState(0)
    number = 0
    for dataset in ("Debug28", "ColoredMNIST"):
        for algorithm in ("ERM", "GroupDRO", "CIM"):
            for trial in range(3):
                for hparams_seed in range(3):
                    for test_envs in ([0], [0, 1], [0, 2], [1], [1, 2], [2]):
                        number += 1
                        unwanted = (dataset, algorithm, test_envs) == ("Debug28", "GroupDRO", [2])
                        missing = rng.uniform() < 0.1 or unwanted
                        args = {
                            "dataset": dataset,
                            "algorithm": algorithm,
                            "trial_seed": trial,
                            "hparams_seed": hparams_seed,
                            "test_envs": test_envs,
                            "output_dir": f"sweep/{number:03}",
                        }
                        hparams = {"lr": 10.0 ** -(trial + 2), "batch_size": 2**hparams_seed}
                        records = [_record(rng, step, args, hparams) for step in (0, 100, 150)]
                        if number == 1:
                            records[0]["env1_out_acc"] = float("nan")
                        if not missing:
                            job = folder / f"{number:03}"
                            job.mkdir(parents=True)
                            lines = [json.dumps(record, sort_keys=True) + "\n" for record in records]
                            (job / "results.jsonl").write_text("".join(lines))


def _record(rng: np.random.RandomState, step: int, args: dict[str, Any], hparams: dict[str, Any]) -> dict[str, Any]:
    accuracies = {f"env{env}_{split}_acc": rng.randint(8) / 7 for env in range(3) for split in ("in", "out")}
    return {"step": step, "args": args, "hparams": hparams, **accuracies}


def write_mnist(folder: Path) -> None:
    """Write MNIST/raw with 90 training and 30 test images: noise, and a bright rectangle whose place is the digit."""
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    rng = np.random.RandomState(0)
    for part, count in (("train", 90), ("t10k", 30)):
        digits = rng.randint(10, size=count).astype(np.uint8)
        images = rng.randint(60, size=(count, 28, 28)).astype(np.uint8)
        for image, digit in zip(images, digits, strict=True):
            row, column = 4 + 4 * divmod(digit, 5)[0], 2 + 5 * (digit % 5)
            image[row : row + 10, column : column + 5] += 190
        header = np.array([2051, count, 28, 28], dtype=">i4").tobytes()
        (raw / f"{part}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(
            np.array([2049, count], dtype=">i4").tobytes() + digits.tobytes()
        )


def run_flags(name: str) -> list[str]:
    """The flags of `train` for the run `name` of RUNS, apart from its folders."""
    return [*RUNS[name].split(), "--hparams", RUN_HPARAMS[name], "--skip_model_save"]


def results_of(folder: Path) -> list[dict[str, Any]]:
    """The lines of results.jsonl. Values that depend on the machine are None, paths are removed."""
    records = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    for record in records:
        record["step_time"] = record["mem_gb"] = None
        del record["args"]["data_dir"], record["args"]["output_dir"]
    return records


def in_fixed_order(launched: str) -> str:
    """The output of the dummy launcher with sorted commands: a sweep launches its jobs in random order."""
    lines = launched.splitlines(keepends=True)
    commands = sorted(line for line in lines if line.startswith("Dummy"))
    return "".join(commands.pop(0) if line.startswith("Dummy") else line for line in lines)


def shared_protocol(data_dir: str) -> dict[str, Any]:
    """The part of `make_golden.protocol` that the real DomainBed and the stand-in run with the same calls."""
    import torch
    from domainbed import datasets, hparams_registry, networks
    from domainbed.lib.misc import seed_hash, split_dataset

    splits = {}
    for trial, env in ((0, 0), (0, 3), (2, 1)):
        out, rest = split_dataset(range(40), 8, seed_hash(trial, env))
        adaptation, train = split_dataset(rest, 6, seed_hash(trial, env))
        splits[f"{trial}, {env}"] = [[split[i] for i in range(len(split))] for split in (out, adaptation, train)]

    hparams: dict[str, Any] = {}
    for dataset in ("Debug28", "Debug224", "ColoredMNIST", "RotatedMNIST", "VLCS", "DomainNet"):
        for algorithm in ("ERM", "GroupDRO"):
            default = hparams_registry.default_hparams(algorithm, dataset)
            drawn = [
                hparams_registry.random_hparams(algorithm, dataset, seed_hash(seed, seed % 3)) for seed in range(1, 21)
            ]
            differing = [{name: value for name, value in draw.items() if value != default[name]} for draw in drawn]
            hparams[f"{algorithm} {dataset}"] = {"default": default, "random": differing}

    torch.manual_seed(0)
    network = networks.Featurizer((3, 28, 28), {}).double()
    weights = {
        name: [value.sum().item(), *value.flatten()[:2].tolist()] for name, value in network.state_dict().items()
    }
    ramp = torch.linspace(0, 1, 2 * 3 * 28 * 28, dtype=torch.float64)
    features = network(ramp.reshape(2, 3, 28, 28))[:, ::16].tolist()

    images = {}
    for name in ("ColoredMNIST", "RotatedMNIST"):
        torch.manual_seed(1)
        dataset = datasets.get_dataset_class(name)(data_dir, [0], {})
        images[name] = [fingerprint([environment[:]]) for environment in dataset]
    return {"splits": splits, "hparams": hparams, "weights": weights, "features": features, "images": images}


def fingerprint(minibatches: Any) -> list[Any]:
    """A few numbers that identify minibatches (x, y): labels, and sums of pixels weighted by position."""
    import torch

    fingerprints = []
    for x, y in minibatches:
        flat = x.double().flatten(1)
        fingerprints.append(
            [y.tolist()[:20], (flat @ torch.linspace(1, 2, flat.shape[1], dtype=torch.float64)).tolist()[:20]]
        )
    return fingerprints
