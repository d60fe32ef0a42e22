"""`cim-dg wilds train`: a run on the package `wilds` alone, with run_expt.py's options and files."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import sys
from collections.abc import Callable, Sequence
from typing import Any

from cim_dg.errors import UserError
from cim_dg.runtime import devices, settings
from cim_dg.runtime.arguments import Parser, flag
from cim_dg.tracking.sidecar import track
from cim_dg.wilds import config as options
from cim_dg.wilds.config import FIELDS, Config, make_config


def add_parser(subparsers: Any) -> None:
    """Add the command `train`; `subparsers` makes parsers of the class `LateParser`."""
    parser = subparsers.add_parser("train", help="train a method on a WILDS dataset", allow_abbrev=False)
    add = parser.add_argument
    add("-d", "--dataset", choices=options.datasets(), required=True)
    add("--algorithm", required=True, help="CIM, CIM_VIB, SCL, CCSA, DCoDR, TransformInvariance, VIB, ERM or GroupDRO")
    add("--root_dir", required=True, help="folder that holds the datasets, such as waterbirds_v1.0")
    add("--log_dir", help="folder of this run (default logs)")
    add("--defaults", help="named defaults or a YAML file instead of the dataset's, such as waterbirds-group_dro")
    add("--seed", type=int)
    add("--hparams_seed", type=int, help="0 for the defaults (default), others for random values in DomainBed's stream")
    add("--selection", choices=options.SELECTIONS, help="which epoch counts as best on validation (default average)")
    flag(parser, "--use_domains", help="let the method see the domain labels, which on some datasets are the groups")

    group = parser.add_argument_group("data")
    add = group.add_argument
    add("--split_scheme")
    add("--dataset_kwargs", nargs="*", action=KeyValues)
    add("--version")
    flag(group, "--download")
    add("--frac", type=float, help="share of every split that is used, to try things out")
    add("--eval_splits", nargs="+", help="splits that are evaluated (default all)")
    add("--transform", choices=options.TRANSFORMS)
    add("--target_resolution", nargs="+", type=int, help="height and width")
    add("--resize_scale", type=float)
    add("--batch_size", type=int)
    add("--train_loader", choices=["standard", "group"])
    flag(group, "--uniform_over_groups", help="sample groups evenly (default for GroupDRO)")
    flag(group, "--distinct_groups")
    add("--n_groups_per_batch", type=int)
    add("--groupby_fields", nargs="+", help="what makes a domain")
    add("--images_per_class", type=int, help="bring that many images of each drawn image's class into the batch")
    flag(group, "--adversarial", help="of backgrounds: at the end, count the foregrounds that some background spoils")
    add("--loader_kwargs", nargs="*", action=KeyValues)

    group = parser.add_argument_group("model and optimisation")
    add = group.add_argument
    add("--model", choices=options.MODELS)
    add("--model_kwargs", nargs="*", action=KeyValues, help="such as pretrained=False")
    add("--pretrained_model_path", help="file with weights of the model, taken instead of ImageNet's")
    add("--n_epochs", type=int)
    add("--optimizer", choices=options.OPTIMIZERS)
    add("--lr", type=float)
    add("--weight_decay", type=float)
    add("--optimizer_kwargs", nargs="*", action=KeyValues)
    add("--max_grad_norm", type=float)
    add("--scheduler", choices=options.SCHEDULERS)
    add("--scheduler_kwargs", nargs="*", action=KeyValues)
    add("--scheduler_metric_name", help="column of val_eval.csv for ReduceLROnPlateau")

    group = parser.add_argument_group("running")
    add = group.add_argument
    add("--device", help="cpu, or the number of a GPU (default the first GPU, if there is one)")
    flag(group, "--resume", help="go on from the last epoch in log_dir")
    flag(group, "--progress_bar")
    group.add_argument("--require_gpu", action="store_true", help="fail where no GPU can be used")
    group.add_argument("--skip_model_save", action="store_true", help="keep no model of the finished run")
    add("--log_every", type=int, help="batches between two lines of the log")
    parser.before_parsing = _add_hparam_options
    parser.set_defaults(run=run)


class LateParser(Parser):
    """A parser that gets its last options when it parses, so that their modules are imported only then."""

    before_parsing: Callable[[argparse.ArgumentParser], None] | None = None

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As in argparse, after adding the late options."""
        if self.before_parsing is not None:
            add, self.before_parsing = self.before_parsing, None
            add(self)
        return super().parse_known_args(args, namespace)


def _add_hparam_options(parser: argparse.ArgumentParser) -> None:
    from cim_dg.wilds.adapter import add_hparam_options

    add_hparam_options(parser)


class KeyValues(argparse.Action):
    """key=value ... -> a dict of numbers, true, false, none, and texts."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        """Put the dict into the namespace; it replaces an earlier one."""
        pairs = [str(value).partition("=") for value in values]
        for key, separator, _ in pairs:
            if not key or not separator:
                parser.error(f"{option_string} takes key=value, not {key!r}")
        setattr(namespace, self.dest, {key: self.read(value) for key, _, value in pairs})

    @staticmethod
    def read(text: str) -> Any:
        """The value of `text`."""
        for convert in (int, float):
            with contextlib.suppress(ValueError):
                return convert(text)
        return {"true": True, "false": False, "none": None}.get(text.lower(), text)


def run(arguments: argparse.Namespace) -> int:
    """Train as the arguments say; returns 0, or raises."""
    if importlib.util.find_spec("wilds") is None:
        raise UserError("wilds train needs the package wilds: pip install wilds")
    from cim_dg.wilds.experiment import train
    from cim_dg.wilds.search import warning

    if arguments.require_gpu:
        devices.check_required(always=True)
    config = config_of(arguments)
    if problem := warning(vars(config)):
        print(f"warning: {problem}", file=sys.stderr)
    with track(config.log_dir):
        train(config, keep_models=not (arguments.skip_model_save or settings.get("CIM_DG_SKIP_MODEL_SAVE")))
    return 0


def parsed(words: Sequence[str]) -> argparse.Namespace:
    """The arguments of `train` with these options.

    Raises:
        UserError: it has no such option, or does not take a value.
    """
    parser = Parser(prog="wilds")
    add_parser(parser.add_subparsers(parser_class=LateParser))
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return parser.parse_args(["train", *words])
    except SystemExit:
        message = said.getvalue().strip().splitlines()[-1].partition("error: ")[2]
        raise UserError(f"the options of wilds train: {message.partition(' (help: ')[0]}") from None


def config_of(arguments: argparse.Namespace) -> Config:
    """The configuration of the run.

    Raises:
        UserError: a value is missing or not accepted.
    """
    from cim_dg.wilds.adapter import canonical, read_hparam_options

    algorithm = canonical(arguments.algorithm)
    options = {name: getattr(arguments, name, None) for name in FIELDS}
    options |= {"algorithm": algorithm, "hparams": read_hparam_options(arguments, algorithm)}
    return make_config(options, arguments.defaults)
