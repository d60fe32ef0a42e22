"""WILDS' log folders as records: those of `cim-dg wilds train` and those of WILDS' own run_expt.py."""

from __future__ import annotations

import csv
import itertools
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Set
from pathlib import Path
from typing import Any

from cim_dg.results.official_data import official_name
from cim_dg.results.records import Collector, Run

OWN_RUNNER, EXAMPLES = "wilds", "wilds-examples"
NO_RESULTS = "WILDS logs without a result yet"
MALFORMED = "Rows of WILDS' CSV files that are cut off or malformed, skipped"
REFUSED = "Epochs with an accuracy that is not between 0 and 1, left out"
NO_RECORD = "Folders whose run.json or log.txt does not say which run they are of"
NOT_TESTED = "WILDS runs without an evaluation of the test images yet, left out"

# WILDS' names of metrics -> ours. fmow's groups are regions.
_METRICS = {
    "acc_avg": "average",
    "adj_acc_avg": "adjusted_average",
    "acc_wg": "worst_group",
    "acc_worst_region": "worst_group",
    "acc_worst_class": "worst_class",
}
MACRO_F1 = "F1-macro_all"  # as iWildCam's own evaluation names it
RULES = {"average": "average", "worst-class": "worst_class", "worst-group": "worst_group", "macro-f1": MACRO_F1}
_METHODS = {"groupDRO": "GroupDRO"}
# WILDS' own methods that train on domain labels. GroupDRO uses them for weights and sampling.
_WITH_DOMAINS = {"GroupDRO", "deepCORAL", "IRM", "DANN"}

_TYPES: dict[str, type] = {
    **dict.fromkeys(("dataset", "algorithm", "harness", "selection"), str),
    **dict.fromkeys(("config", "hparams"), dict),
}

# The background gap: the accuracy lost if the background is of another class (Xiao et al. 2020).
GAP = ("mixed_same - mixed_rand", "gap")
_GAP_OF = ("mixed_same", "average"), ("mixed_rand", "average")


def is_run(names: Set[str]) -> bool:
    """Whether a folder with these files is a WILDS log folder."""
    return "run.json" in names or any(name.endswith("_eval.csv") for name in names)


def read(folder: Path, names: Set[str], collector: Collector) -> None:
    """Add a log folder: a checkpoint for each epoch, with the metrics of every split."""
    epochs: dict[int, dict[tuple[str, str], float]] = {}
    for name in sorted(names):
        if name.endswith("_eval.csv"):
            _read_split(folder / name, name.removesuffix("_eval.csv"), epochs, collector)
    description = _own(folder / "run.json") if "run.json" in names else _examples(folder / "log.txt")
    if not epochs:
        collector.skip(NO_RESULTS, folder)
        return
    if description is None:
        collector.skip(NO_RECORD, folder)
        return
    described = _run(folder, description, epochs)
    if described is None:
        collector.skip(NOT_TESTED, folder)
        return
    run = collector.begin(described)
    for epoch, values in sorted(epochs.items()):
        if all(split in values for split in _GAP_OF):
            values[GAP] = values[_GAP_OF[0]] - values[_GAP_OF[1]]
        collector.add(run, [epoch], collector.layout(tuple(values)), list(values.values()))


def own_rule(run: Run) -> str:
    """The rule by which the run itself selected its best epoch."""
    return str(run.provenance.get("selection", "unknown"))


def group_labels(run: Run, rule: str) -> str:
    """Whether training and selection used group (domain) labels, derived from the run's record."""
    uses = [
        *(["training"] if run.provenance.get("used_domains") else []),
        *(["selection"] if rule == "worst-group" else []),
    ]
    return f"yes ({' and '.join(uses)})" if uses else "no"


def has_balanced_validation(run: Run) -> bool:
    """Whether the validation images are balanced over the groups, as Waterbirds' are over backgrounds within a class.

    Selection by their average then depends on group labels, though it reads none (Sagawa et al. 2020).
    """
    return run.dataset == "Waterbirds"


def _read_split(path: Path, split: str, epochs: dict[int, dict[tuple[str, str], float]], collector: Collector) -> None:
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        for number, row in _rows(file):
            try:
                values = {str(name): float(text) for name, text in row.items()}
                epoch = _epoch(values.pop("epoch"))
            except (KeyError, TypeError, ValueError):
                collector.skip(MALFORMED, f"{path}:{number}")
                continue
            if wrong := next((name for name in values if not _is_possible(name, values)), None):
                collector.skip(REFUSED, f"{path}:{number}, where {wrong} is {values[wrong]:g}")
                continue
            # If a resumed run repeated an epoch, the last time counts.
            epochs.setdefault(epoch, {}).update({(split, name): value for name, value in _named(values).items()})


def _rows(file: Iterable[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of a CSV file with their numbers; an empty one, which nothing takes, where the csv module gives up."""
    # The csv module fails at NUL bytes, which a crash can leave in a file.
    rows = csv.DictReader(line.replace("\0", "") for line in file)
    for number in itertools.count(2):
        try:
            yield number, next(rows)
        except StopIteration:
            return
        except csv.Error:  # a field of more than 131,072 characters
            yield number, {}


def _epoch(number: float) -> int:
    if not (number.is_integer() and 0 <= number < 2**53):
        raise ValueError(f"{number} is no epoch")
    return int(number)


def _is_possible(name: str, values: Mapping[str, float]) -> bool:
    """Whether a row's value of this name can be: accuracies are from 0 to 1, those of empty groups anything."""
    value = values[name]
    if name.startswith("count_"):
        return 0 <= value < math.inf
    is_accuracy = name in _METRICS or name == MACRO_F1 or name.startswith("acc_")
    return not is_accuracy or 0 <= value <= 1 or values.get(f"count_{name.removeprefix('acc_')}") == 0


def _named(values: Mapping[str, float]) -> dict[str, float]:
    """A row's metrics. Group-free ones, which run_expt.py omits on Waterbirds, come from the groups' counts."""
    named = {_METRICS.get(name, name): value for name, value in values.items()}
    groups = {name.removeprefix("acc_"): value for name, value in values.items() if f"count_{name[4:]}" in values}
    total = sum(values[f"count_{group}"] for group in groups)
    if "average" not in named and total:
        named["average"] = sum(value * values[f"count_{group}"] for group, value in groups.items()) / total
    if "worst_class" not in named and (classes := _by_class(groups, values)):
        named["worst_class"] = min(classes)
    return named


def _by_class(groups: Mapping[str, float], values: Mapping[str, float]) -> list[float]:
    """The accuracy of each class, if the groups' names include it ('y:landbird_background:water')."""
    hits: dict[str, float] = {}
    counts: dict[str, float] = {}
    for group, accuracy in groups.items():
        match = re.search(r"(?:^|_)y:\s*([^_]+)", group)
        if match is None:
            return []
        count = values[f"count_{group}"]
        hits[match[1]] = hits.get(match[1], 0.0) + accuracy * count
        counts[match[1]] = counts.get(match[1], 0.0) + count
    return [hits[label] / counts[label] for label in hits if counts[label]]


def _own(path: Path) -> dict[str, Any] | None:
    """The record that `cim-dg wilds train` writes."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or not {"dataset", "algorithm", "seed"} <= record.keys():
        return None
    fits = all(isinstance(record.get(name, kind()), kind) for name, kind in _TYPES.items())
    return record if fits and _is_seed(record["seed"]) else None


def _examples(path: Path) -> dict[str, Any] | None:
    """The options that run_expt.py writes at the start of its log, one per line ('Batch size: 128')."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            head = []
            while line := file.readline().strip():
                head.append(line.partition(": "))
    except OSError:
        return None
    options: dict[str, Any] = {name.lower().replace(" ", "_"): value for name, _, value in head}
    if not {"dataset", "algorithm", "seed"} <= options.keys() or not re.fullmatch(r"-?[0-9]{1,15}", options["seed"]):
        return None
    algorithm = _METHODS.get(options["algorithm"], options["algorithm"])
    metric = _METRICS.get(options.get("val_metric", ""), options.get("val_metric", "unknown"))
    grouped = options.get("uniform_over_groups") == "True" or options.get("train_loader") == "group"
    return {
        "harness": EXAMPLES,
        "dataset": options["dataset"],
        "algorithm": algorithm,
        "seed": int(options["seed"]),
        "selection": next((rule for rule, name in RULES.items() if name == metric), metric),
        "used_domains": grouped or algorithm in _WITH_DOMAINS or options.get("use_domains") == "True",
        "epochs_wanted": options.get("n_epochs"),
        "config": options,
        "device": options.get("device"),
    }


def _seed_or_0(seed: object) -> int:
    return seed if type(seed) is int and 0 <= seed < 2**53 else 0


def _is_seed(seed: object) -> bool:
    return type(seed) is int and abs(seed) < 2**53


def _run(
    folder: Path, description: Mapping[str, Any], epochs: Mapping[int, Mapping[tuple[str, str], float]]
) -> Run | None:
    """The run, or None if the dataset's name depends on its size and no test images have been counted yet."""
    dataset = _dataset(description["dataset"], epochs)
    if dataset is None:
        return None
    epochs_wanted = str(description.get("epochs_wanted", ""))
    is_number = re.fullmatch("[0-9]{1,15}", epochs_wanted)
    finished = bool(description.get("finished", len(epochs) >= int(epochs_wanted) if is_number else True))
    config = dict(description.get("config") or {})
    hparams = dict(description.get("hparams") or {})
    config_names = ("model", "optimizer", "lr", "weight_decay", "batch_size", "n_epochs")
    return Run(
        folder=folder,
        harness=str(description.get("harness", OWN_RUNNER)),
        dataset=dataset,
        algorithm=_METHODS.get(description["algorithm"], description["algorithm"]),
        trial=description["seed"],
        hparams_seed=_seed_or_0(config.get("hparams_seed")),
        finished=finished,
        hparams={**{name: config[name] for name in config_names if name in config}, **hparams},
        args={**config, "seed": description["seed"]},
        provenance=dict(description),
    )


def _dataset(name: str, epochs: Mapping[int, Mapping[tuple[str, str], float]]) -> str | None:
    """The dataset's name, which may depend on how many images it is tested on; None if none has been tested yet."""
    if official_name(name, 0) == name:
        return name
    tested = "original" if name == "backgrounds" else "test"
    for _, values in sorted(epochs.items(), reverse=True):  # the last epoch may not be tested yet
        counts = [value for (split, metric), value in values.items() if split == tested and metric.startswith("count_")]
        if counts:
            return official_name(name, round(sum(counts)))
    return None
