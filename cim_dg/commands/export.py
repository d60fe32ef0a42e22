"""`cim-dg export`: writes the selected model of a table's cell to files that can be read without executing code."""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cim_dg.errors import UserError
from cim_dg.runtime.files import write_atomically

if TYPE_CHECKING:  # every call of the command line imports this module
    from cim_dg.commands.models import Model, Stored
    from cim_dg.results.records import Records, Run

PROGRAM = "model.pt2"


def add_parser(subparsers: Any) -> None:
    """Add `export` to the command line."""
    parser = subparsers.add_parser(
        "export",
        help="write the selected model of a cell of a table, with its hparams, classes and provenance",
        description="Select a model as `cim-dg collect` does and write it to a folder: model.safetensors, model.json, "
        "and with --program also model.pt2 of torch.export. `cim-dg predict --checkpoint FOLDER` reads the folder.",
    )
    parser.add_argument("folders", metavar="DIR", nargs="+", help="folders of runs, as of `cim-dg collect`")
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--algorithm", required=True)
    parser.add_argument("--test_env", type=int, help="of DomainBed: the test environment (needed if there are several)")
    parser.add_argument("--trial", type=int, help="DomainBed's trial or WILDS' seed (needed if there are several)")
    parser.add_argument("--selection", help="the rule of selection (default: each harness' own)")
    parser.add_argument("--output", type=Path, required=True, help="the folder to write, which must not exist")
    parser.add_argument("--program", action="store_true", help="also torch.export's program, (N, C, H, W) -> logits")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Select the model, build it once as a check, and write it.

    Raises:
        UserError: no model or several match the description, or the selected one was not kept.
        RunError: the model cannot be built here.
    """
    from cim_dg.commands import models

    if args.output.exists():
        raise UserError(f"--output {args.output} exists already; choose another")
    file, selected = select(args)
    stored = models.read(file)
    model = models.build(stored)
    try:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=args.output.parent, prefix=f".{args.output.name}.") as scratch:
            folder = Path(scratch, "model")
            folder.mkdir()
            write(folder, stored, selected)
            if args.program:
                _write_program(model, stored, folder / PROGRAM)
            folder.rename(args.output)
    except OSError as error:
        raise UserError(f"--output {args.output} cannot be written: {error.strerror}") from None
    print(f"wrote {args.output}: {args.algorithm} on {args.dataset}, from {file}")
    return 0


def write(folder: Path, stored: Stored, selected: Mapping[str, Any]) -> None:
    """Write model.safetensors and model.json; `selected` has the cell and the run's provenance."""
    from safetensors.torch import save

    from cim_dg.commands import models

    # safetensors cannot save tensors that share memory.
    state = {name: value.detach().clone().contiguous() for name, value in stored.state.items()}
    write_atomically(folder / models.WEIGHTS, save(state))
    content = {**models.description(stored), "selected": selected}
    write_atomically(folder / models.DESCRIPTION, json.dumps(content, indent=2, sort_keys=True) + "\n")


def select(args: argparse.Namespace) -> tuple[Path, dict[str, Any]]:
    """The file of the selected model, and its description.

    Raises:
        UserError: as of `run`.
    """
    from cim_dg.results import read_wilds, selection
    from cim_dg.results.read import read

    rule = args.selection
    if rule is not None and rule not in selection.TITLES and rule not in read_wilds.RULES:
        accepted = ", ".join([*selection.TITLES, *read_wilds.RULES])
        raise UserError(f"--selection is {rule!r}; accepted is one of {accepted}")
    records = read(args.folders)
    of_method = {number: run for number, run in enumerate(records.runs) if run.algorithm == args.algorithm}
    # In tables, other data of a dataset, or in its format, has a longer name; the run's record has the harness' name.
    runs = {number: run for number, run in of_method.items() if run.dataset == args.dataset} or {
        number: run
        for number, run in of_method.items()
        if args.dataset in (run.args.get("dataset"), run.provenance.get("dataset"))
    }
    if not runs:
        available = sorted({f"{run.algorithm} on {run.dataset}" for run in records.runs})
        raise UserError(f"there is no run of {args.algorithm} on {args.dataset}; there are {', '.join(available)}")
    if any(run.test_envs for run in runs.values()):
        return _of_domainbed(args, records, runs, rule or "iid")
    return _of_wilds(args, records, runs, rule)


def _of_domainbed(
    args: argparse.Namespace, records: Records, runs: Mapping[int, Run], rule: str
) -> tuple[Path, dict[str, Any]]:
    from cim_dg.results.best import model_file
    from cim_dg.results.selection import select as select_checkpoints

    cells = select_checkpoints(records, rule)
    cells = cells[cells["run"].isin(list(runs))]
    for name, value in (("test_env", args.test_env), ("trial", args.trial)):
        cells = cells if value is None else cells[cells[name] == value]
    if len(cells) != 1:
        described = sorted(f"--test_env {cell.test_env} --trial {cell.trial}" for cell in cells.itertuples())
        raise UserError(_not_one(described, f"{args.algorithm} on {args.dataset} selected by {rule}"))
    cell: Any = next(cells.itertuples())
    run = records.runs[cell.run]
    last = int(records.frame.loc[records.frame["run"] == cell.run, "step"].max())
    file = model_file(run, cell.step, last)
    if file is None:
        raise UserError(
            f"the selected model, of step {cell.step} of {run.folder}, was not kept: run it with "
            "--save_model_every_checkpoint, and without --skip_model_save"
        )
    facts: dict[str, float] = {"test_env": int(cell.test_env), "trial": int(cell.trial), "step": int(cell.step)}
    facts |= {"hparams_seed": int(cell.hparams_seed), "validation": float(cell.validation), "test": float(cell.value)}
    return file, _selected(run, rule, facts)


def _of_wilds(
    args: argparse.Namespace, records: Records, runs: Mapping[int, Run], rule: str | None
) -> tuple[Path, dict[str, Any]]:
    from cim_dg.results.group_selection import best_epochs
    from cim_dg.results.read_wilds import own_rule

    chosen = {number: run for number, run in runs.items() if args.trial in (None, run.trial)}
    if len(chosen) != 1:
        described = [f"--trial {run.trial} ({run.folder})" for run in chosen.values()]
        raise UserError(_not_one(described, f"{args.algorithm} on {args.dataset}"))
    ((number, run),) = chosen.items()
    rule = rule or own_rule(run)
    file = next(run.folder.glob("*_epoch:best_model.pth"), None)
    if file is None or rule != own_rule(run):
        raise UserError(
            f"{run.folder} keeps the model of the epoch that {own_rule(run)} selects"
            + ("" if file is None else f", not that of {rule}; run it with --selection {rule}")
            + (", and that file is not there" if file is None else "")
        )
    epoch = best_epochs(records, {number: run}, rule).get(number)
    return file, _selected(run, rule, {"seed": run.trial, "epoch": epoch})


def _selected(run: Run, rule: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    return {"harness": run.harness, "rule": rule, "run": str(run.folder), "provenance": run.provenance, **facts}


def _not_one(described: list[str], description: str) -> str:
    if not described:
        return f"no cell of {description} has that test environment and trial"
    return f"there are {len(described)} models of {description}; choose one: {'; '.join(described[:12])}"


def _write_program(model: Model, stored: Stored, file: Path) -> None:
    """Write torch.export's program of the model, for batches of any size.

    Raises:
        UserError: this method cannot be exported.
    """
    import torch

    network: Any = model.network

    class Predict(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.network.predict(x)

    example = torch.zeros(2, *_input_shape(stored))
    try:
        program = torch.export.export(
            Predict().eval(), (example,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},)
        )
        torch.export.save(program, file)
    except Exception as error:  # torch.export raises many types of errors
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"torch.export cannot export {stored.about['algorithm']}: {reason}; leave out --program"
        ) from None


def _input_shape(stored: Stored) -> list[int]:
    about = stored.about
    if about["kind"] == "domainbed":
        return list(about["input_shape"])
    size = about["config"]["target_resolution"] or about["original_resolution"]
    if size is None:
        raise UserError("the model was trained without target_resolution, so that --program has no image size to use")
    return [3, *size]
