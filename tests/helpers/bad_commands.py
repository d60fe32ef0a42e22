"""Command lines with a wrong or odd value, or with a file to damage, for every command, by a seeded generator."""

from __future__ import annotations

import argparse
import functools
import importlib
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bad_files

from cim_dg import cli

SCRIPTS = ("sweep", "train", "collect_results", "list_top_hparams")
Words = dict[str, list[str]]


@dataclass(frozen=True)
class BadInput:
    """A command line, what is odd about it, the file that is damaged before, and whether it must be refused."""

    kind: str
    program: str
    words: tuple[str, ...]
    about: str
    wrong: bool = False
    file: str | None = None


MODEL = "run/waterbirds_seed:0_epoch:best_model.pth"
# The good command lines: of each command, the words of each option and positional.
TRAIN: Words = {
    "--dataset": ["waterbirds"],
    "--algorithm": ["CIM_VIB"],
    "--root_dir": ["data"],
    "--log_dir": ["out"],
    **{"--model": ["small-cnn"], "--model_kwargs": ["width=8"], "--transform": ["image_base"]},
    **{"--target_resolution": ["16", "16"], "--batch_size": ["8"], "--n_epochs": ["1"], "--lr": ["0.01"]},
    **{"--weight_decay": ["0"], "--loader_kwargs": ["num_workers=0"]},
}
_SWEEP: Words = {"name": ["ablation.yaml"], "--output_dir": ["out"], "--data_dir": ["data"]}
_STANDIN: Words = {
    **{"--dataset": ["NuisanceDigits"], "--algorithm": ["CIM_VIB"], "--data_dir": ["none"], "--output_dir": ["out"]},
    **{"--steps": ["2"], "--test_envs": ["2"], "--hparams": ['{"batch_size": 4, "nuisance_digits": 20}']},
}
GOOD: dict[str, Words] = {
    "sweep": _SWEEP,
    "status": {"folder": ["jobs"]},
    "collect": {"folders": ["jobs", "run"]},
    "log": {"folders": ["run"], "--to": ["tensorboard"]},
    "wilds train": TRAIN,
    "wilds digits": {"--root_dir": ["out"]},
    "wilds backgrounds": {"--root_dir": ["data"], "--mapping": ["ablation.yaml"]},
    "submission build": {"log_dirs": ["run"], "--output": ["out"]},
    "submission validate": {"folder": ["run"]},
    "data list": {},
    "data verify": {"name": ["Waterbirds"], "--data_dir": ["data"]},
    "data register": {"name": ["Mine"], "--from": ["photos"]},
    "signal": {"--images": ["photos/a"], "--draws": ["20"], "--side": ["16"], "--output": ["out"]},
    "morph": {"--checkpoint": [MODEL], "--images": ["photos"], "--output": ["out.png"]},
    "predict": {"--checkpoint": [MODEL], "--images": ["photos"], "--output": ["out.csv"]},
    "export": {"folders": ["jobs"], "--dataset": ["VLCS"], "--algorithm": ["ERM"], "--output": ["out"]},
    "new method": {"name": ["Mine"], "--output": ["out"]},
    "doctor": {},
    "domainbed.scripts.train": _STANDIN,
    "domainbed.scripts.collect_results": {"--input_dir": ["jobs"]},
    "domainbed.scripts.list_top_hparams": {
        **{"--input_dir": ["jobs"], "--dataset": ["VLCS"], "--algorithm": ["ERM"], "--test_env": ["0"]}
    },
    "domainbed.scripts.sweep": {
        **{"command": ["launch"], "--datasets": ["VLCS"], "--algorithms": ["ERM", "CIM"], "--output_dir": ["out"]},
        **{"--data_dir": ["data"], "--command_launcher": ["dummy"], "--n_trials": ["1"], "--n_hparams": ["2"]},
    },
}
"""Commands without an entry (those that take long or load something down) get wrong values alone."""
ALWAYS = {"sweep": ["--dry_run"], "domainbed.scripts.sweep": ["--skip_confirmation"]}
LENGTHS = {"draws", "side", "steps", "n_epochs", "n_trials", "n_hparams", "n_hparams_from", "watch"}
"""Options that say how much is computed: large values are right, and take for ever."""
NAMES = {
    *("algorithm", "algorithms", "dataset", "datasets", "command_launcher", "selection", "table", "baseline"),
    *("defaults", "split_scheme", "eval_splits", "groupby_fields", "device", "scheduler_metric_name", "version"),
}
"""Options of which a name that nobody knows is wrong."""
WRONG_NUMBERS = ["", "x", "nan", "-1", "1e999", "--1", "0x10", "1,5", "\udcff"]
ODD_WORDS = [
    "",
    "x" * 300,
    "/dev/null",
    "/dev/full",
    "/dev/null/x",
    "photos",
    "ablation.yaml",
    "a\nb",
    "\udcff",
    "é",
    "$x",
]
WRONG_JSON = [
    *("{", "[1]", '{"lr": -1}', '{"lr": NaN}', '{"batch_size": 0}', '{"batch_size": 1e400}', '{"nonsense": 1}', "null"),
    *("[" * 10_000, '{"batch_size": "x"}', '{"lr": 1' + "0" * 5000 + "}", '{"weight_decay": -1}', '{"lr": true}'),
]


@functools.cache
def parsers() -> dict[str, argparse.ArgumentParser]:
    """The parser of every command of `cim-dg` and of the stand-in, by name."""
    found = dict(_leaves(cli.parser(), ""))
    for script in SCRIPTS:
        module = importlib.import_module(f"domainbed.scripts.{script}")
        found[f"domainbed.scripts.{script}"] = _parser_of(module.parse_args)
    return found


def draw(rng: random.Random) -> BadInput:
    """A bad input."""
    kind = rng.choice(["option"] * 6 + ["yaml", "yaml", "record", "record", "image", "checkpoint"])
    if kind == "option":
        return _bad_option(rng)
    program, words, file = rng.choice(FILES[kind])
    return BadInput(kind, program, tuple(line(words, ALWAYS.get(program, []))), "", file=file)


_RESUMED = TRAIN | {"--log_dir": ["run"], "--n_epochs": ["2"], "--resume": []}
FILES: dict[str, list[tuple[str, Words, str]]] = {
    "yaml": [
        ("sweep", _SWEEP, "ablation.yaml"),
        ("sweep", _SWEEP | {"name": ["waterbirds.yaml"]}, "waterbirds.yaml"),
        ("wilds train", TRAIN | {"--defaults": ["defaults.yaml"]}, "defaults.yaml"),
    ],
    "record": [
        *((program, GOOD[program], "jobs/0/results.jsonl") for program in ("status", "collect", "export")),
        *(
            (f"domainbed.scripts.{name}", GOOD[f"domainbed.scripts.{name}"], "jobs/0/results.jsonl")
            for name in SCRIPTS[2:]
        ),
        *(
            (program, GOOD[program], f"run/{name}")
            for program in ("collect", "log")
            for name in ("run.json", "val_eval.csv")
        ),
        ("status", {"folder": ["run"]}, "run/run.json"),
        ("wilds train", _RESUMED, "run/run.json"),
        ("wilds train", TRAIN, "data/waterbirds_v1.0/metadata.csv"),
    ],
    "image": [
        ("wilds train", TRAIN, "data/waterbirds_v1.0/images/0003.jpg"),
        ("signal", GOOD["signal"], "photos/a/cat/0.png"),
        ("morph", GOOD["morph"], "photos/a/cat/0.png"),
        ("predict", GOOD["predict"], "photos/a/cat/0.png"),
        ("data register", GOOD["data register"], "photos/a/cat/0.png"),
    ],
    "checkpoint": [
        ("wilds train", _RESUMED, "run/waterbirds_seed:0_epoch:last_model.pth"),
        ("wilds train", TRAIN | {"--model": ["resnet18"], "--pretrained_model_path": ["weights.pth"]}, "weights.pth"),
        ("morph", GOOD["morph"], MODEL),
        ("predict", GOOD["predict"], MODEL),
    ],
}
"""By kind, the command, its options, and the file that is damaged."""
DAMAGE: dict[str, Callable[[random.Random, Path], str]] = {
    "yaml": bad_files.damage_yaml,
    "record": bad_files.damage_record,
    "image": bad_files.damage_image,
    "checkpoint": bad_files.damage_checkpoint,
}


def _bad_option(rng: random.Random) -> BadInput:
    program, parser = rng.choice(list(parsers().items()))
    good = GOOD.get(program)
    words = dict(good) if good is not None else _required(parser)
    actions = [a for a in parser._actions if not isinstance(a, (argparse._HelpAction, argparse._VersionAction))]
    action = rng.choice(actions)
    name = next((o for o in action.option_strings if o in words), (*action.option_strings[::-1], action.dest)[0])
    values, wrong = _odd_values(rng, action, only_wrong=good is None)
    extra = list(ALWAYS.get(program, []))
    if name == action.dest or action.nargs != 0:
        words[name] = values
    if rng.random() < 0.1 or action.nargs == 0 or values == []:
        words.pop(name, None) if action.required else words.update({name: words.get(name, values)})
        extra, wrong, values = [*extra, "--nonsense"], True, ["--nonsense"]
    return BadInput("option", program, tuple(line(words, extra)), f"{name} {values}"[:100], wrong)


def _odd_values(rng: random.Random, action: argparse.Action, only_wrong: bool) -> tuple[list[str], bool]:
    """Words for an option, and whether they are certainly wrong."""
    kind, metavar = action.type, str(action.metavar)
    count = action.nargs if isinstance(action.nargs, int) else 1
    is_number = kind in (int, float) or metavar in ("INT", "FLOAT")
    if action.nargs == 0:
        return [], True
    if action.dest == "hparams":
        return [rng.choice(WRONG_JSON)], True
    if isinstance(action.nargs, str) and action.nargs in "*+" and "kwargs" in action.dest:
        return [rng.choice(["novalue", "=3", "nonsense=1"])], True
    if is_number and (only_wrong or action.dest in LENGTHS or rng.random() < 0.7):
        return [rng.choice(WRONG_NUMBERS)] * count, True
    if is_number:
        return [rng.choice(["0", "1" + "0" * 30, "1e38", "1e-320", "1"])] * count, False
    if action.choices or action.dest in NAMES or metavar == "BOOL":
        return ["nonsense"] * count, True
    if only_wrong:
        return [], True
    return [rng.choice(ODD_WORDS)] * count, False


def _required(parser: argparse.ArgumentParser) -> Words:
    return {(*a.option_strings, a.dest)[0]: ["out"] for a in parser._actions if a.required}


def line(words: Words, extra: Sequence[str] = ()) -> list[str]:
    """The words in the order of a command line; a value that begins with a dash is joined to its option."""
    words_in_order: list[str] = []
    for name, values in words.items():
        dashed = name.startswith("-") and len(values) == 1 and values[0].startswith("-")
        words_in_order += [f"{name}={values[0]}"] if dashed else [name, *values] if name.startswith("-") else []
    return [
        *(value for name, values in words.items() if not name.startswith("-") for value in values),
        *words_in_order,
        *extra,
    ]


def _leaves(parser: argparse.ArgumentParser, name: str) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    groups = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not groups:
        if late := getattr(parser, "before_parsing", None):  # options that are added when it parses
            late(parser)
        yield name, parser
    for group in groups:
        for part, below in group.choices.items():
            yield from _leaves(below, f"{name} {part}".strip())


def _parser_of(parse_args: Callable[[Sequence[str]], Any]) -> argparse.ArgumentParser:
    """The parser that a function makes and calls."""
    seen: list[argparse.ArgumentParser] = []
    before = argparse.ArgumentParser.parse_args
    argparse.ArgumentParser.parse_args = lambda self, *_: seen.append(self)  # type: ignore[assignment,method-assign]
    try:
        parse_args([])
    finally:
        argparse.ArgumentParser.parse_args = before  # type: ignore[method-assign]
    return seen[0]
