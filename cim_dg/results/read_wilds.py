"""WILDS' log folders as records: those of `cim-dg wilds train` and those of WILDS' own run_expt.py."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

from cim_dg.results.official_data import official_name
from cim_dg.results.records import Collector, Run

OWN_RUNNER, EXAMPLES = "wilds", "wilds-examples"
NO_RESULTS = "WILDS logs without a result yet"
MALFORMED = "Rows of WILDS' CSV files that are cut off or malformed, skipped"

# WILDS' names of metrics -> ours. fmow's groups are regions.
_METRICS = {
    "acc_avg": "average",
    "adj_acc_avg": "adjusted_average",
    "acc_wg": "worst_group",
    "acc_worst_region": "worst_group",
    "acc_worst_class": "worst_class",
}
RULES = {"average": "average", "worst-class": "worst_class", "worst-group": "worst_group"}
_METHODS = {"groupDRO": "GroupDRO"}
# WILDS' own methods that train on domain labels. GroupDRO uses them for weights and sampling.
_WITH_DOMAINS = {"GroupDRO", "deepCORAL", "IRM", "DANN"}

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
    if not epochs or description is None:
        collector.skip(NO_RESULTS, folder)
        return
    run = collector.begin(_run(folder, description, epochs))
    for epoch, values in sorted(epochs.items()):
        if all(split in values for split in _GAP_OF):
            values[GAP] = values[_GAP_OF[0]] - values[_GAP_OF[1]]
        collector.add(run, epoch, collector.layout(tuple(values)), list(values.values()))


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


def _read_split(path: Path, split: str, epochs: dict[int, dict[tuple[str, str], float]], collector: Collector) -> None:
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        # The csv module fails at NUL bytes, which a crash can leave in a file.
        for number, row in enumerate(csv.DictReader(line.replace("\0", "") for line in file), start=2):
            try:
                values = {str(name): float(text) for name, text in row.items()}
                epoch = int(values.pop("epoch"))
            except (KeyError, TypeError, ValueError):
                collector.skip(MALFORMED, f"{path}:{number}")
                continue
            # If a resumed run repeated an epoch, the last time counts.
            epochs.setdefault(epoch, {}).update({(split, name): value for name, value in _named(values).items()})


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
    except (OSError, ValueError):
        return None
    if not isinstance(record, dict) or not {"dataset", "algorithm", "seed"} <= record.keys():
        return None
    return record


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
    if not {"dataset", "algorithm", "seed"} <= options.keys() or not options["seed"].lstrip("-").isdigit():
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


def _run(folder: Path, description: Mapping[str, Any], epochs: Mapping[int, Mapping[tuple[str, str], float]]) -> Run:
    epochs_wanted = str(description.get("epochs_wanted", ""))
    finished = bool(description.get("finished", len(epochs) >= int(epochs_wanted) if epochs_wanted.isdigit() else True))
    config = dict(description.get("config") or {})
    hparams = dict(description.get("hparams") or {})
    config_names = ("model", "optimizer", "lr", "weight_decay", "batch_size", "n_epochs")
    return Run(
        folder=folder,
        harness=str(description.get("harness", OWN_RUNNER)),
        dataset=_dataset(str(description["dataset"]), epochs),
        algorithm=_METHODS.get(str(description["algorithm"]), str(description["algorithm"])),
        trial=int(description["seed"]),
        finished=finished,
        hparams={**{name: config[name] for name in config_names if name in config}, **hparams},
        args={**config, "seed": description["seed"]},
        provenance=dict(description),
    )


def _dataset(name: str, epochs: Mapping[int, Mapping[tuple[str, str], float]]) -> str:
    """The data set's name, which depends on how many images it is tested on."""
    tested = "original" if name == "backgrounds" else "test"
    last = epochs[max(epochs)]
    images = sum(value for (split, metric), value in last.items() if split == tested and metric.startswith("count_"))
    return official_name(name, round(images))
