"""The settings of runs of WILDS and SubpopBench: which runs share a row, and how many settings were tried."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from cim_dg.results.group_selection import is_subpopbench
from cim_dg.results.read_wilds import group_labels
from cim_dg.results.records import Run
from cim_dg.results.tables import Key, tried_note

_SEARCHED = ("lr", "weight_decay", "batch_size")
"""Options of a run that `hparams_seed` draws."""
_OPTIONS = (
    *("optimizer", *_SEARCHED, "n_epochs", "steps", "scheduler", "optimizer_kwargs", "scheduler_kwargs"),
    *("model", "image_arch", "model_kwargs", "pretrained_model_path", "transform", "target_resolution", "resize_scale"),
    *("train_loader", "uniform_over_groups", "n_groups_per_batch", "images_per_class", "max_grad_norm"),
    *("gradient_accumulation_steps", "frac", "split_scheme"),
)
WEIGHTS, BF16 = "weights", "bf16"


def settings(run: Run) -> dict[str, str]:
    """What a run was trained with, as text by name: options, the weights at the start, and hyper-parameters."""
    values = {name: run.args[name] for name in _OPTIONS if run.args.get(name) is not None}
    values[BF16] = run.bf16
    if run.provenance.get(WEIGHTS) is not None:
        values[WEIGHTS] = run.provenance[WEIGHTS]
    if not is_subpopbench(run):  # which draws all hyper-parameters
        values |= {name: value for name, value in run.hparams.items() if name not in values}
    return {name: _text(value) for name, value in values.items()}


def _text(value: Any) -> str:
    """Equal for equal values, also if one is a number and one a text, as in run_expt.py's log."""
    if isinstance(value, bool | dict | list):
        return str(value) if isinstance(value, bool) else json.dumps(value)
    try:
        return repr(float(value)).removesuffix(".0")
    except (TypeError, ValueError, OverflowError):
        return str(value)


def row_names(runs: Mapping[int, Run], rule: str) -> dict[int, str]:
    """The row of each run: the method, and, where runs of a method differ, in what.

    Runs that differ in their use of group labels, or in their settings, never share a row. The exception is a search:
    where runs have drawn hyper-parameters (hparams seeds above 0), the best on validation counts in each trial.
    """
    names = {number: run.algorithm for number, run in runs.items()}
    labels = {number: _label(run, rule) for number, run in runs.items()}
    for members in _groups(runs, lambda run: (run.algorithm, run.harness)).values():
        if len({labels[number] for number in members}) > 1:
            names |= {number: f"{names[number]} ({labels[number]})" for number in members}
    for members in _groups(runs, lambda run: (run.algorithm, run.harness, run.dataset, _label(run, rule))).values():
        of_group = {number: _fixed(runs[number], members.values()) for number in members}
        if differing := _differing(list(of_group.values())):
            for number, values in of_group.items():
                names[number] += f" ({', '.join(f'{name}={values.get(name)}' for name in differing)})"
    return names


def baselines(names: Mapping[int, str], runs: Mapping[int, Run], baseline: str) -> dict[Key, Key]:
    """The baseline's row with which each row is compared, within its harness.

    If the baseline has several rows, it is the one with the same values of the settings in which they differ. A row
    without such a row is left out.
    """
    by_row: dict[Key, list[Run]] = {}
    for number, run in runs.items():
        by_row.setdefault((names[number], run.harness), []).append(run)
    pairs = {}
    for key, of_row in by_row.items():
        candidates = {
            other: members
            for other, members in by_row.items()
            if other[1] == key[1] and members[0].algorithm == baseline
        }
        if of_row[0].algorithm == baseline:
            continue
        differing = _differing([settings(run) for members in candidates.values() for run in members])
        if len(candidates) > 1:
            own = settings(of_row[0])
            candidates = {
                other: members
                for other, members in candidates.items()
                if all(settings(members[0]).get(name) == own.get(name) for name in differing)
            }
        if len(candidates) == 1:
            pairs[key] = next(iter(candidates))
    return pairs


def notes(names: Mapping[int, str], runs: Mapping[int, Run]) -> list[str]:
    """How many settings each method was tried with, and in which settings the methods differ from each other."""
    sentences = []
    for dataset, of_dataset in _groups(runs, lambda run: run.dataset).items():
        tried, differing = {}, []
        for (method, harness), members in _groups(of_dataset, lambda run: (run.algorithm, run.harness)).items():
            label = method if len({run.harness for run in of_dataset.values()}) == 1 else f"{method} ({harness})"
            rows = len({names[number] for number in members})
            seeds = max(len(s) for s in _seeds(names, members).values())
            tried[label] = f"{rows * seeds}" + (f" in {rows} rows" if rows > 1 else "")
            differing.append(_fixed(next(iter(members.values())), of_dataset.values()))
        sentences.append(tried_note(tried, f" on {dataset}"))
        for name in _differing(differing, common=True):
            values = sorted({values[name] for values in differing})
            sentences.append(f"Careful: the methods on {dataset} differ in {name} ({', '.join(values)}).")
    return sentences


def share_data(runs: Iterable[Run]) -> bool:
    """Whether runs of one seed share what pairing needs: images that the seed draws, by --frac.

    Otherwise the splits of WILDS and SubpopBench are the same in every trial.
    """
    return all(0 < _number(run.args.get("frac")) < 1 for run in runs)


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return 1.0


def _seeds(names: Mapping[int, str], runs: Mapping[int, Run]) -> dict[tuple[str, int], set[int]]:
    """The hparams seeds of each row and trial."""
    seeds: dict[tuple[str, int], set[int]] = {}
    for number, run in runs.items():
        seeds.setdefault((names[number], run.trial), set()).add(run.hparams_seed)
    return seeds


def _label(run: Run, rule: str) -> str:
    """What sets runs of one method apart: in SubpopBench whether they had attributes, else the use of group labels."""
    if is_subpopbench(run):
        return f"train_attr {run.args['train_attr']}"
    return f"group labels: {group_labels(run, rule)}"


def _fixed(run: Run, others: Any) -> dict[str, str]:
    """The settings of a run but for those that it, or one of `others`, has drawn in a search."""
    values = settings(run)
    if is_subpopbench(run) or any(other.hparams_seed for other in others):
        drawn = {*_SEARCHED, *(name for name in run.hparams if name not in (*_OPTIONS, BF16))}
        values = {name: value for name, value in values.items() if name not in drawn}
    return values


def _differing(values: Sequence[Mapping[str, str]], common: bool = False) -> list[str]:
    """The names whose values differ; with `common`, only those that all have."""
    names = dict.fromkeys(name for mapping in values for name in mapping)
    return [
        name
        for name in names
        if len({mapping.get(name) for mapping in values}) > 1
        and (not common or all(name in mapping for mapping in values))
    ]


def _groups(runs: Mapping[int, Run], key: Callable[[Run], Any]) -> dict[Any, dict[int, Run]]:
    groups: dict[Any, dict[int, Run]] = {}
    for number, run in runs.items():
        groups.setdefault(key(run), {})[number] = run
    return groups
