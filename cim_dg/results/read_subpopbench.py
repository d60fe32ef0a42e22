"""SubpopBench's job folders as records: a checkpoint for each line of results.json, with the metrics of every split."""

from __future__ import annotations

from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

from cim_dg.results.official_data import official_name
from cim_dg.results.read_domainbed import parse
from cim_dg.results.records import Collector, Run, command_of

HARNESS = "subpopbench"
RULES = ("worst-group", "worst-class")
"""What its collect_results selects by: with attributes in the validation set, and without."""
MALFORMED = "Lines of results.json that are cut off or malformed, skipped"
NO_RESULTS = "Jobs of SubpopBench without a result yet"

# The split that it reports, where that is not 'te'.
_TEST_SPLITS = {"ImagenetBG": "mixed_rand", "Living17": "zs"}
# Methods that use no attribute of the training set, SubpopBench's own and ours.
_WITHOUT_ATTRIBUTES = {
    *("ERM", "CVaRDRO", "JTT", "LfF", "Mixup", "Focal", "LDAM", "BSoftmax", "VanillaCRT"),
    *("VIB", "SCL", "CIM", "CIM_VIB", "TransformInvariance"),
}


def is_run(names: Set[str]) -> bool:
    """Whether a folder with these files is a job of SubpopBench that at least began."""
    return "results.json" in names or {"args.json", "out.txt"} <= names


def read(folder: Path, names: Set[str], collector: Collector) -> None:
    """Add a job folder's checkpoints; what cannot be used is counted, never fatal."""
    path = folder / "results.json"
    lines = path.read_bytes().splitlines() if path.name in names else []
    args: dict[str, Any] | None = None
    run = -1
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = parse(line)
            if record["args"] != args:
                args, run = record["args"], -1
                started = _run(folder, record, "done" in names)
                figures = _figures(record)
                run = collector.begin(started)
            else:
                figures = _figures(record)
            if run < 0:
                raise ValueError("a line of unusable arguments")
            collector.add(run, [int(record["step"])], collector.layout(tuple(figures)), list(figures.values()))
        except (AttributeError, KeyError, TypeError, ValueError):
            collector.skip(MALFORMED, f"{path}:{number}")
    if run < 0 and args is None:
        collector.skip(NO_RESULTS, folder)


def _run(folder: Path, record: Mapping[str, Any], finished: bool) -> Run:
    args, hparams = dict(record["args"]), dict(record["hparams"])
    uses_attributes = args["train_attr"] == "yes" and (
        args["algorithm"] not in _WITHOUT_ATTRIBUTES
        or hparams.get("cim_positives") == "other_domain"
        or hparams.get("cim_negatives") == "same_domain"
    )
    set_args = {name: value for name, value in args.items() if value != ""}
    return Run(
        folder=folder,
        harness=HARNESS,
        dataset=official_name(str(args["dataset"]), int(_reported(record)["overall"]["n_samples"])),
        algorithm=str(args["algorithm"]),
        trial=int(args["seed"]),
        hparams_seed=int(args["hparams_seed"]),
        finished=finished,
        hparams=hparams,
        args=args,
        provenance={"used_domains": uses_attributes, "command": command_of("subpopbench.train", set_args)},
    )


def _reported(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """The metrics of the test split."""
    metrics: Mapping[str, Any] = record[_TEST_SPLITS.get(record["args"]["dataset"], "te")]
    return metrics


def _figures(record: Mapping[str, Any]) -> dict[tuple[str, str], float]:
    """(split, metric) -> value: accuracies on validation and test, and the terms of the loss."""
    figures = {}
    for split, metrics in (("val", record["va"]), ("test", _reported(record))):
        figures[split, "average"] = float(metrics["overall"]["accuracy"])
        figures[split, "worst_group"] = float(metrics["min_group"]["accuracy"])
        # The accuracy of a class is its recall.
        figures[split, "worst_class"] = min(float(of_class["recall"]) for of_class in metrics["per_class"].values())
    for name, value in record.items():
        if name != "step" and isinstance(value, (int, float)) and not name.endswith("_acc"):
            figures["train", name] = float(value)
    return figures
