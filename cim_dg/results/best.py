"""The hyper-parameters and the checkpoint that the selection chose for every cell."""

from __future__ import annotations

import contextlib
import functools
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cim_dg.errors import UserError
from cim_dg.results.domains import domain_names
from cim_dg.results.grids import Grid
from cim_dg.results.group_selection import best_epochs as epochs_of
from cim_dg.results.group_selection import by_rule
from cim_dg.results.read_swad import is_averaged, is_family
from cim_dg.results.read_wilds import own_rule
from cim_dg.results.records import Records, Run
from cim_dg.results.selection import TITLES, select

_HEADER = [
    "Method",
    "From",
    "Test domain",
    "Trial",
    "Hparams seed",
    "Step",
    "Validation",
    "Test",
    "Checkpoint",
    "Hparams",
]
_NUMERIC = [False, False, False, True, True, True, True, True, False, False]
_HPARAMS_WIDTH = 60
_NOTE = "Hparams: those that the method uses and whose default is another; the runs' own records have all of them."
# Hyper-parameters that do nothing unless another one is set, and those of DomainBed that do nothing on small images.
_ONLY_WITH = {
    "average_strength": "average_copies",
    "linear_steps": "lars",
    "vit_attn_tune": "vit",
    "vit_dropout": "vit",
    "dinov2": "vit",
}
_LARGE_IMAGES = ("resnet18", "resnet50_augmix", "resnet_dropout", "vit", "vit_attn_tune", "vit_dropout", "dinov2")


def best_hparams(records: Records, rules: Sequence[str]) -> list[Grid]:
    """A grid for each data set and rule: the selected settings, step and model file of every cell."""
    grids = []
    last = records.frame.groupby("run")["step"].max()
    for rule in rules:
        selected = select(records, rule)
        for dataset, part in selected.groupby("dataset", sort=True):
            rows = []
            for cell in part.sort_values(["harness", "algorithm", "test_env", "trial"]).itertuples():
                run = records.runs[cell.run]
                domain = domain_names(str(dataset), cell.n_envs)[cell.test_env]
                numbers = [
                    str(cell.trial),
                    str(cell.hparams_seed),
                    str(cell.step),
                    f"{100 * cell.validation:.1f}",
                    f"{100 * cell.value:.1f}",
                ]
                texts = [
                    str(cell.algorithm),
                    str(cell.harness),
                    domain,
                    *numbers,
                    checkpoint(run, cell.step, int(last[cell.run])),
                ]
                rows.append([*([text] for text in texts), textwrap.wrap(changed_text(run), _HPARAMS_WIDTH)])
            title = f"{dataset}: selected hparams and checkpoints [{rule}]"
            grids.append(
                Grid(title, _HEADER, rows, [False] * len(rows), [f"Model selection: {TITLES[rule]}.", _NOTE], _NUMERIC)
            )
    return grids


def best_epochs(records: Records, rules: Sequence[str]) -> list[Grid]:
    """The same for WILDS runs, which have one setting each: the epoch selected by each rule, or by each run's own."""
    grids = []
    header = ["Method", "From", "Data set", "Seed", "Epoch", "Checkpoint", "Hparams"]
    for rule, runs in by_rule(records, rules).items():
        rows = []
        for number, epoch in sorted(epochs_of(records, runs, rule).items(), key=lambda pair: str(runs[pair[0]].folder)):
            run = runs[number]
            # The harness keeps the model of the epoch that the run's own rule selected.
            model_path = next(run.folder.glob("*_epoch:best_model.pth"), None) if own_rule(run) == rule else None
            texts = [
                run.algorithm,
                run.harness,
                run.dataset,
                str(run.trial),
                str(epoch),
                str(model_path or f"not kept ({run.folder})"),
            ]
            rows.append([*([text] for text in texts), textwrap.wrap(changed_text(run), _HPARAMS_WIDTH)])
        title = f"WILDS: selected epochs [{rule}]"
        numeric = [name in ("Seed", "Epoch") for name in header]
        grids.append(Grid(title, header, rows, [False] * len(rows), [_NOTE], numeric))
    return grids


def hparams_text(run: Run) -> str:
    """A run's hyper-parameters on one line, sorted by name."""
    return _text(run.hparams)


def changed_text(run: Run) -> str:
    """Those hyper-parameters that the method uses and whose default is another, or "defaults", on one line."""
    if not run.hparams:
        return "unknown"
    dataset = str(run.args.get("dataset", run.dataset))
    defaults = _defaults(str(run.args.get("algorithm", run.algorithm)), dataset, bool(run.test_envs))
    changed = {name: value for name, value in run.hparams.items() if name not in defaults or value != defaults[name]}
    return _text({name: value for name, value in changed.items() if _is_used(name, run, dataset)}) or "defaults"


def _text(hparams: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in sorted(hparams.items()))


@functools.cache
def _defaults(algorithm: str, dataset: str, of_domainbed: bool) -> dict[str, Any]:
    """The defaults of a method on a data set; of a method that this package does not have, those of the harness."""
    from cim_dg import hparams as spaces  # imported here: most reports need none

    names = ["domainbed", "common", f"datasets/{dataset}"] if of_domainbed else []
    defaults: dict[str, Any] = {}
    for name in [*names, spaces.SHARED, algorithm]:
        with contextlib.suppress(UserError, OSError):  # this package has no such method
            defaults |= spaces.defaults(spaces.space(name, dataset if of_domainbed else None))
    return defaults


def _is_used(name: str, run: Run, dataset: str) -> bool:
    from cim_dg.hparams import SMALL_IMAGES

    if run.test_envs and name in _LARGE_IMAGES and dataset in SMALL_IMAGES:
        return False
    return bool(run.hparams.get(_ONLY_WITH.get(name, ""), True))


def model_file(run: Run, step: int, last: int) -> Path | None:
    """The file of the model at this step, if the harness kept it: DomainBed keeps the last, or all if told to."""
    candidates = [run.folder / f"model_step{step}.pkl", *([run.folder / "model.pkl"] if step == last else [])]
    if is_family(run.harness) and not is_averaged(run.harness):
        envs = ",".join(map(str, run.test_envs))
        candidates = [run.folder / "checkpoints" / f"TE{envs}_{step}.pth"]
    return next((path for path in candidates if path.is_file()), None)


def checkpoint(run: Run, step: int, last: int) -> str:
    """`model_file` as text."""
    path = model_file(run, step, last)
    return str(path) if path else f"not kept ({run.folder})"
