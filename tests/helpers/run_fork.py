"""Runs inside a clone of DomainBed or of a fork: several trainings in one interpreter, whose start takes long.

    python run_fork.py '[["--algorithm", "CIM", ...], ...]'

A clone with `train_all.py` is of the SWAD family, every other one has `domainbed.scripts.train`; a run whose first word
is a module runs that module, and its sweep has a launcher `inside` this interpreter. After each run a line of JSON says
what became of it: the error, or whether a training's last checkpoint, loaded into a new algorithm, predicts the same,
and what is known of the average. ResNets get random weights.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import io
import json
import os
import runpy
import shlex
import sys
import traceback
from pathlib import Path
from typing import Any

import numpy
import torch
import torchvision
from torch.nn.modules.batchnorm import _BatchNorm

SCRIPT = Path("train_all.py")


def predict_alike(first: Any, second: Any, shape: tuple[int, ...]) -> bool:
    """Whether two algorithms give the same predictions for some images (C, H, W)."""
    x = torch.rand(4, *shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return torch.equal(first.eval().predict(x), second.eval().predict(x))


def domainbed_run(flags: list[str]) -> dict[str, Any]:
    """One run of `domainbed.scripts.train`."""
    sys.argv[1:] = flags
    names = runpy.run_module("domainbed.scripts.train", run_name="__main__", alter_sys=True)
    args, algorithm = names["args"], names["algorithm"]
    saved = torch.load(Path(args.output_dir, "model.pkl"), weights_only=False)
    numbers = saved["model_num_classes"], saved["model_num_domains"], saved["model_hparams"]
    again = type(algorithm)(saved["model_input_shape"], *numbers)
    again.load_state_dict(saved["model_dict"])
    return {"algorithm": args.algorithm, "reloads": predict_alike(algorithm, again, saved["model_input_shape"])}


def swad_run(flags: list[str]) -> dict[str, Any]:
    """One run of `train_all.py`, with a checkpoint of its last step."""
    from domainbed import evaluator
    from domainbed.lib import swa_utils

    evaluated: dict[bool, Any] = {}  # the last algorithm, and the last average
    evaluate = evaluator.Evaluator.evaluate

    def watching(self: Any, algorithm: Any, *args: Any, **kwargs: Any) -> Any:
        evaluated[isinstance(algorithm, swa_utils.AveragedModel)] = algorithm
        return evaluate(self, algorithm, *args, **kwargs)

    before = set(Path("train_output").glob("*/*"))
    sys.argv = [str(SCRIPT), *flags]
    evaluator.Evaluator.evaluate = watching
    try:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    finally:
        evaluator.Evaluator.evaluate = evaluate
    folder = max(set(Path("train_output").glob("*/*")) - before, key=lambda path: (path / "log.txt").exists())
    algorithm = evaluated[False]
    checkpoint = max(folder.glob("checkpoints/*"), key=lambda path: path.stat().st_mtime_ns)
    again = type(algorithm)(algorithm.input_shape, algorithm.num_classes, algorithm.num_domains, algorithm.hparams)
    again.load_state_dict(torch.load(checkpoint, weights_only=False)["model_dict"])
    fact: dict[str, Any] = {"algorithm": flags[flags.index("--algorithm") + 1], "folder": str(folder)}
    fact["reloads"] = predict_alike(algorithm, again, algorithm.input_shape)
    if True in evaluated:
        fact |= {"averages": mean_of_two(swa_utils, algorithm), "mask_batches": mask_batches(evaluated[True])}
    return fact


def mean_of_two(swa_utils: Any, algorithm: Any) -> bool:
    """Whether the harness' average of two algorithms has the mean of all their weights."""
    other = copy.deepcopy(algorithm)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter += torch.rand_like(parameter)
    average = swa_utils.AveragedModel(algorithm)
    for model in (algorithm, other):
        average.update_parameters(model)
    members = zip(algorithm.parameters(), other.parameters(), strict=True)
    means = [(first + second) / 2 for first, second in members]
    return all(torch.allclose(a, m, atol=1e-6) for a, m in zip(average.module.parameters(), means, strict=True))


def mask_batches(average: Any) -> list[int]:
    """Of each batch normalisation of a mask network, over how many batches its statistics were estimated."""
    layers = [(name, layer) for name, layer in average.named_modules() if isinstance(layer, _BatchNorm)]
    return [int(layer.get_buffer("num_batches_tracked")) for name, layer in layers if "morphing" in name]


def main() -> None:
    """Do the runs of the command line."""
    sys.path.insert(0, os.getcwd())
    for name in ("resnet18", "resnet50"):
        make = getattr(torchvision.models, name)
        setattr(torchvision.models, name, lambda pretrained=None, make=make, **options: make(**options))
    if os.environ.get("CIM_DG_AUTOLOAD") == "0":  # then nobody gives these back to the forks that use them
        vars(numpy).setdefault("int", int)
    streams = sys.stdout, sys.stderr
    for flags in json.loads(sys.argv[1]):
        fact: dict[str, Any] = {"run": flags}
        try:
            fact |= run(flags)
        except (Exception, SystemExit) as error:
            traceback.print_exc(file=streams[1])
            fact["error"] = f"{type(error).__name__}: {error}".splitlines()[0]
        sys.stdout, sys.stderr = streams  # which train replaces
        print("fact " + json.dumps(fact), flush=True)


def run(flags: list[str]) -> dict[str, Any]:
    """A training, or a module of the clone's."""
    if SCRIPT.exists():
        return swad_run(flags)
    if flags[0].startswith("--"):
        return domainbed_run(flags)
    if flags[0].endswith(".sweep"):
        launchers = importlib.import_module("domainbed.command_launchers")
        launchers.REGISTRY["inside"] = run_inside
    sys.argv[1:] = flags[1:]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        runpy.run_module(flags[0], run_name="__main__", alter_sys=True)
    return {"printed": printed.getvalue()}


def run_inside(commands: list[str]) -> None:
    """A launcher of DomainBed's that runs its jobs in this interpreter."""
    for command in commands:
        _python, _m, module, *sys.argv[1:] = shlex.split(command)
        streams = sys.stdout, sys.stderr
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        sys.stdout, sys.stderr = streams


main()
