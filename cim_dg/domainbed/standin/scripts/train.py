"""Train one algorithm on one data set, evaluating every split of every environment at checkpoints."""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import math
import os
import platform
import shutil
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cim_dg.errors import LEFT, RunError, UserError
from cim_dg.results import morph_picture, outputs
from cim_dg.runtime import devices, halving, locks, settings
from cim_dg.runtime.allocator import keep_freed_memory
from cim_dg.runtime.arguments import Parser
from cim_dg.runtime.bounds import SEED, share, whole
from cim_dg.runtime.files import remove_partial, write_atomically
from cim_dg.runtime.provenance import version_of
from cim_dg.runtime.seeding import seed_everything
from cim_dg.tracking.sidecar import tracked

from .. import algorithms, datasets, hparams_registry
from ..lib import command, job_record
from ..lib.environments import Loaders, check_test_envs, make_loaders, split_environments
from ..lib.misc import Tee, accuracy, print_row, seed_hash
from ..lib.results import Results, identity
from ..lib.resume import NAME as CHECKPOINT
from ..lib.resume import Resume

_PROGRESS = ("results.jsonl", CHECKPOINT)
"""Files of a job that has begun."""


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command's arguments."""
    parser = Parser(prog="domainbed.scripts.train", description=__doc__)
    parser.add_argument("--data_dir", help="the folder of all data sets")
    parser.add_argument("--dataset", default="RotatedMNIST")
    parser.add_argument("--algorithm", default="ERM")
    parser.add_argument("--task", default=command.TASKS[0], choices=command.TASKS)
    parser.add_argument("--hparams", help="a JSON object: values that replace default or random ones")
    parser.add_argument("--hparams_seed", type=whole(), default=0, help="seed of random hparams; 0 for the defaults")
    parser.add_argument("--trial_seed", type=whole(), default=0, help="seed of the splits, and of random hparams")
    parser.add_argument("--seed", type=whole(0, SEED), default=0, help="seed of everything else")
    parser.add_argument("--steps", type=whole(1), help="number of steps; the data set's own if not given")
    parser.add_argument("--checkpoint_freq", type=whole(1), help="steps from checkpoint to checkpoint; likewise")
    parser.add_argument("--test_envs", type=whole(), nargs="+", default=[0])
    parser.add_argument("--output_dir", default="train_output")
    parser.add_argument("--holdout_fraction", type=share(), default=0.2, help="share of each environment's out-split")
    adaptation = "share of test environments that domain adaptation may see"
    parser.add_argument("--uda_holdout_fraction", type=share(zero=True), default=0, help=adaptation)
    parser.add_argument("--skip_model_save", action="store_true")
    parser.add_argument("--save_model_every_checkpoint", action="store_true")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    args = parse_args(argv)
    is_new = not os.path.exists(args.output_dir)
    code = _train_in_folder(args)
    if code == 2 and is_new and not any(os.path.exists(os.path.join(args.output_dir, name)) for name in _PROGRESS):
        shutil.rmtree(args.output_dir, ignore_errors=True)  # the corrected command finds nothing of the refused one
    return code


def _train_in_folder(args: argparse.Namespace) -> int:
    """Claim the folder, and train with what is printed in its files, too; returns the exit code."""
    try:
        os.makedirs(args.output_dir, exist_ok=True)
        claimed = locks.claim(args.output_dir)
    except (OSError, UserError) as error:
        failed = (
            f"--output_dir {args.output_dir} cannot be made: {error.strerror}" if isinstance(error, OSError) else error
        )
        print(f"error: {failed}", file=sys.stderr)
        return 2
    if claimed is None:
        print(f"{args.output_dir}: another process is running this job, to which it is left", file=sys.stderr)
        return LEFT
    out, err = (os.path.join(args.output_dir, name) for name in ("out.txt", "err.txt"))
    with (
        claimed,
        Tee(sys.stdout, out) as stdout,
        Tee(sys.stderr, err) as stderr,
        contextlib.redirect_stdout(stdout),
        contextlib.redirect_stderr(stderr),
    ):
        command.announce(stderr.file if command.announced() else stderr)
        return command.run(lambda: train(args))


@tracked
def train(args: argparse.Namespace) -> None:
    """Run the job, or resume it if it was stopped, and write `done` to the output folder.

    A job that is done is not run again. One of a search by halving pauses where `halving.pause` says.
    """
    done = os.path.join(args.output_dir, "done")
    if os.path.exists(done) and job_record.args_of(args.output_dir) == identity(args):
        print(f"{args.output_dir}: this job is done; to run it again, remove its folder")
        halving.reached(args.output_dir)
        return
    with contextlib.suppress(FileNotFoundError):
        os.remove(done)  # left by another job: this one may fail
    remove_partial(args.output_dir)
    check(args)
    print_section("Environment", environment())
    print_section("Args", vars(args))
    hparams = choose_hparams(args)
    print_section("HParams", hparams)

    keep_freed_memory()
    # From here on random numbers are drawn in DomainBed's order: data set, loaders, weights, then the steps.
    seed_everything(args.seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dataset: datasets.MultipleDomainDataset = datasets.get_dataset_class(args.dataset)(
        args.data_dir, args.test_envs, hparams
    )
    splits = split_environments(dataset.datasets, args, hparams["class_balanced"])
    loaders = make_loaders(splits, args.test_envs, hparams["batch_size"], dataset.N_WORKERS)
    num_domains = len(dataset) - len(args.test_envs)
    algorithm_class = algorithms.get_algorithm_class(args.algorithm)
    algorithm = algorithm_class(dataset.input_shape, dataset.num_classes, num_domains, hparams).to(device)

    def save_model(name: str) -> None:
        if args.skip_model_save:
            return
        buffer = io.BytesIO()
        torch.save(
            {
                "args": vars(args),
                "model_input_shape": dataset.input_shape,
                "model_num_classes": dataset.num_classes,
                "model_num_domains": num_domains,
                "model_hparams": hparams,
                "model_dict": algorithm.state_dict(),
            },
            buffer,
        )
        write_atomically(os.path.join(args.output_dir, name), buffer.getvalue())

    steps_per_epoch = min(len(split) for split, _ in splits.train) / hparams["batch_size"]
    n_steps = args.steps or dataset.N_STEPS
    checkpoint_freq = args.checkpoint_freq or dataset.CHECKPOINT_FREQ
    # Logits are kept of what the tables show: the test domain's in-split, where there is one test domain.
    tested = f"env{args.test_envs[0]}_in" if len(args.test_envs) == 1 and settings.get("CIM_DG_KEEP_LOGITS") else ""
    validated = {f"env{env}_out_acc" for env in range(len(dataset)) if env not in args.test_envs}
    columns: list[str] | None = None
    results_file = Results(os.path.join(args.output_dir, "results.jsonl"), args)
    resume = Resume(args.output_dir, args, hparams, algorithm, loaders, results_file, device)
    first_step, values_before = resume.start()
    job_record.write(args.output_dir, args, hparams, algorithm, device)
    pause = halving.pause(n_steps - 1, checkpoint_freq)
    if pause is not None and first_step > pause:  # it was killed after the checkpoint there
        halving.reached(args.output_dir)
        return
    since_checkpoint: defaultdict[str, list[float]] = defaultdict(list, values_before)
    for step, values in enumerate(updates(algorithm, loaders, args, device, first_step), start=first_step):
        for name, value in values.items():
            since_checkpoint[name].append(value)
        last = step == n_steps - 1
        if step % checkpoint_freq == 0 or last:
            results: dict[str, Any] = {"step": step, "epoch": step / steps_per_epoch}
            results |= {name: float(np.mean(recent)) for name, recent in since_checkpoint.items()}
            kept: list[tuple[torch.Tensor, torch.Tensor]] = []
            for name, batches in loaders.evaluation.items():
                kept_here = kept if name == tested else None
                results[f"{name}_acc"] = accuracy(algorithm, batches, device, kept_here)
            if kept:
                validation = np.mean([value for name, value in results.items() if name in validated])
                keep_logits(args.output_dir, kept, loaders.evaluation[tested].keys, step, float(validation))
            results["mem_gb"] = torch.cuda.max_memory_allocated() / 2**30
            if sorted(results) != columns:
                columns = sorted(results)
                print_row(columns, colwidth=12)
            print_row([results[name] for name in columns], colwidth=12)
            results_file.append({**results, "hparams": hparams, "args": vars(args)})
            since_checkpoint.clear()
            if args.save_model_every_checkpoint:
                save_model(f"model_step{step}.pkl")
        if last:
            break
        if step == pause:
            resume.write(step + 1, since_checkpoint)
            halving.reached(args.output_dir)
            return
        resume.after_step(step + 1, since_checkpoint)
    save_model("model.pkl")
    if not args.skip_model_save:
        keep_morphs(args.output_dir, algorithm, dataset, args.test_envs[0])
    write_atomically(done, "done")
    resume.remove()


def keep_logits(
    folder: str, kept: list[tuple[torch.Tensor, torch.Tensor]], images: list[int], step: int, validation: float
) -> None:
    """Write the logits of a checkpoint on the test domain; images are in the order of their keys."""
    order = np.argsort(images)
    logits, y = (torch.cat(parts).cpu().numpy()[order] for parts in zip(*kept, strict=True))
    outputs.keep(Path(folder), outputs.Outputs(logits, y, np.asarray(images)[order], step, validation))


def keep_morphs(
    folder: str, algorithm: algorithms.Algorithm, dataset: datasets.MultipleDomainDataset, test_env: int
) -> None:
    """Write what a method with a mask makes of the first test images, of a data set that is in memory.

    A report then needs no PyTorch for its pictures. `cim-dg morph` draws the same.
    """
    method: Any = getattr(algorithm, "method", None)
    environment = dataset[test_env]
    if not (hasattr(method, "morph") and isinstance(environment, torch.utils.data.TensorDataset)):
        return
    from cim_dg.harness.morphs import morphs_of

    images, labels = (values[: morph_picture.SHOWN] for values in environment.tensors)
    names = [f"{dataset.ENVIRONMENTS[test_env]}: {label}" for label in labels.tolist()]
    morphs_of(method, images, names).write(Path(folder, morph_picture.FILE))


def updates(
    algorithm: algorithms.Algorithm, loaders: Loaders, args: argparse.Namespace, device: str, first_step: int
) -> Iterator[dict[str, float]]:
    """Train without end; yield the values of each step from `first_step` on, and its time in seconds.

    Raises:
        RunError: a value is not finite.
    """
    train, adaptation = iter(loaders.train), iter(loaders.adaptation)
    for step in itertools.count(first_step):
        start = time.time()
        minibatches = [(x.to(device), y.to(device)) for x, y in next(train)]
        adapting = args.task == "domain_adaptation"
        unlabeled = [x.to(device) for x, _ in next(adaptation)] if adapting else None
        values = algorithm.update(minibatches, unlabeled)
        for name, value in values.items():
            if not math.isfinite(value):
                raise RunError(f"{args.algorithm}'s {name} is {value} at step {step}; the run is stopped")
        yield {"step_time": time.time() - start, **values}


def check(args: argparse.Namespace) -> None:
    """Check the arguments.

    Raises:
        UserError: an argument names an unknown algorithm, data set or environment.
    """
    devices.check_required()
    algorithms.get_algorithm_class(args.algorithm)
    check_test_envs(args.test_envs, datasets.get_dataset_class(args.dataset).ENVIRONMENTS)


def choose_hparams(args: argparse.Namespace) -> dict[str, Any]:
    """The default or random hyper-parameters, overridden by those of --hparams."""
    if args.hparams_seed == 0:
        hparams = hparams_registry.default_hparams(args.algorithm, args.dataset)
    else:
        seed = seed_hash(args.hparams_seed, args.trial_seed)
        hparams = hparams_registry.random_hparams(args.algorithm, args.dataset, seed)
    return hparams_registry.with_overrides(hparams, args.hparams, args.algorithm)


def environment() -> dict[str, object]:
    """The versions that DomainBed prints at the start of a run."""
    return {
        "Python": platform.python_version(),
        "PyTorch": torch.__version__,
        "Torchvision": version_of("torchvision"),
        "CUDA": torch.version.cuda,
        "CUDNN": torch.backends.cudnn.version(),
        "NumPy": np.__version__,
        "PIL": version_of("pillow"),
    }


def print_section(title: str, values: dict[str, Any]) -> None:
    """Print named values under a title, as DomainBed does at the start of a run."""
    print(f"{title}:")
    for name, value in values.items() if title == "Environment" else sorted(values.items()):
        print(f"\t{name}: {value}")


if __name__ == "__main__":
    sys.exit(main())
