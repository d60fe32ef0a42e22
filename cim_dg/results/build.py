"""The whole path from folders to the finished comparison."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from cim_dg.errors import UserError
from cim_dg.results import (
    aggregates,
    best,
    data_copies,
    domain_tables,
    protocols,
    published,
    read_wilds,
    selection,
    wilds_tables,
)
from cim_dg.results.grids import Grid, grids
from cim_dg.results.read import read
from cim_dg.results.records import Records
from cim_dg.results.tables import Table

BASELINE = "ERM"


@dataclass(frozen=True)
class Report:
    """The comparison of some folders: tables, selected hparams if requested, and what was left out."""

    tables: list[Table]
    records: Records | None = None
    best: list[Grid] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def grids(self) -> list[Grid]:
        """All tables as grids of text, in the order of printing."""
        of_tables = [grid for table in self.tables for grid in grids(table)]
        return of_tables + [aggregates.grid(aggregate) for aggregate in self.over_datasets] + self.best

    @functools.cached_property
    def over_datasets(self) -> list[aggregates.Aggregate]:
        """The methods over all datasets of a harness and a protocol, if there are several."""
        labels = dict.fromkeys(table.protocol for table in self.tables)
        of_protocols = [[table for table in self.tables if table.protocol == label] for label in labels]
        return [aggregate for tables in of_protocols for aggregate in aggregates.aggregates(tables)]


def report(
    folders: Sequence[str | os.PathLike[str]],
    rules: Sequence[str] = (),
    names: Sequence[str] = (),
    baseline: str | None = None,
    with_published: bool = True,
    best_hparams: bool = False,
    metrics: Sequence[str] | None = None,
) -> Report:
    """Read `folders` and compute their tables.

    Args:
        rules: selection rules of either harness; a harness without one has its default.
        names: only these tables; tables of published figures need no folder.
        metrics: further metrics of runs that kept their logits, of `cim_dg.results.metrics.METRICS`.
        baseline: the method that the others are compared with; by default that of the sweep's primary comparison, or
            ERM.

    Raises:
        UserError: there is nothing to read, or a name is unknown.
    """
    domainbed_rules = [rule for rule in dict.fromkeys(rules) if rule in selection.TITLES] or ["iid"]
    group_rules = [rule for rule in dict.fromkeys(rules) if rule in read_wilds.RULES or rule == "oracle"]
    if not folders:
        if not names:
            raise UserError(
                "Give at least one folder of runs, or the published figures to show: --table vlcs, backgrounds or "
                "subgroups."
            )
        return Report(_only([], names, domainbed_rules, with_published))
    records = read(folders)
    methods = sorted({run.algorithm for run in records.runs})
    if baseline is not None and baseline not in methods:
        raise UserError(f"--baseline {baseline}: no such method among the runs; there are {', '.join(methods)}.")
    if baseline is None:
        declared = [primary.baseline for primary in records.primaries if primary.baseline in methods]
        baseline = declared[0] if declared else BASELINE
    tables, selected, left_out = [], [], []
    for protocol, part in protocols.parts(records):
        part_rules = domainbed_rules, group_rules
        if protocol is not None:
            rule = protocol.selection
            if rules and rule not in rules:
                left_out.append(f"Left out: runs whose seeds were planned by {rule}, which have no other table.")
                continue
            part_rules = ([rule], []) if rule in selection.TITLES else ([], [rule])
        of_part = [
            *domain_tables.domain_tables(part, part_rules[0], baseline, with_published),
            *wilds_tables.wilds_tables(part, part_rules[1], baseline, with_published),
        ]
        tables += of_part if protocol is None else [_labelled(table, protocol.label) for table in of_part]
        if best_hparams:
            selected += [*best.best_hparams(part, part_rules[0]), *best.best_epochs(part, part_rules[1])]
    if names:
        tables = _only(tables, names, domainbed_rules, with_published)
    if metrics is not None:
        from cim_dg.results.metrics import metric_tables

        further = metric_tables(tables, records, metrics)
        if not further:
            left_out.append("--metrics: no selected model has kept its logits; the runners of this package keep them.")
        tables += further
    return Report(tables, records, selected, [*records.report(), *data_copies.sentences(records.runs), *left_out])


def _labelled(table: Table, protocol: str) -> Table:
    """The table with the protocol of its own runs in their rows."""
    rows = [row if row.published else replace(row, protocol=protocol) for row in table.rows]
    return replace(table, rows=rows, protocol=protocol)


def _published(name: str, rules: Sequence[str]) -> list[Table]:
    if name == wilds_tables.SUBGROUPS:
        return [wilds_tables.published_subgroups()]
    if name == wilds_tables.BACKGROUNDS:
        return [wilds_tables.published_backgrounds()]
    return domain_tables.published_tables(name, rules)


def _only(tables: list[Table], names: Sequence[str], rules: Sequence[str], with_published: bool) -> list[Table]:
    """The tables of these names; a table without runs has published figures only."""
    chosen = []
    for name in dict.fromkeys(names):
        of_name = [table for table in tables if table.name == name]
        if not of_name and with_published and name in published.names():
            of_name = _published(name, rules)
        if not of_name:
            known = sorted({table.name for table in tables} | set(published.names()))
            raise UserError(f"--table {name}: there is no such table; choose from {', '.join(known)}.")
        chosen += of_name
    return chosen
