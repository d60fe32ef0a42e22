"""Whether a comparison is fair: what differs between its methods besides the method, and what to run to mend it.

A comparison is all runs of a dataset under one protocol. `audit_facts` has what is read from a run.
"""

from __future__ import annotations

import itertools
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from cim_dg.results import data_copies, protocols, published, statistics
from cim_dg.results.audit_facts import (
    FACTS,
    SEARCHED,
    chose,
    is_searched,
    of_catalogue,
    pretrained_with,
    trains_on_groups,
)
from cim_dg.results.build import Report
from cim_dg.results.domains import dataset_of
from cim_dg.results.records import Run, settings_tried
from cim_dg.results.tables import LEVEL, Comparison, Row, Table

FAR = 3.0
"""Points by which a mean of ERM may differ from the published one, besides three standard errors of both."""

_NAMED = 3  # methods of one value that are named, before they are "n others"
_COMPLETE = 20, 3  # the settings and trials of DomainBed's published figures
Methods = Mapping[str, Sequence[Run]]


@dataclass(frozen=True)
class Finding:
    """What is unfair about a comparison, and what mends it."""

    kind: str
    comparison: str
    text: str
    mend: str

    def lines(self) -> list[str]:
        """The finding as text."""
        return [f"{self.comparison}: {self.text}", f"    to mend: {self.mend}"]


def findings(report: Report) -> list[Finding]:
    """Everything that makes the tables of a report unfair, comparison by comparison; empty if nothing does."""
    found = []
    for name, runs in _comparisons(report):
        methods = _by_method(runs)
        for kind, text, mend in itertools.chain(
            _settings_and_trials(methods),
            _jobs(methods),
            _facts(runs, methods),
            _harnesses(runs),
            _groups(methods),
            _tuned(runs, _primaries(report)),
            _pretraining(runs),
            (("data", sentence, "cim-dg data verify") for sentence in data_copies.sentences(runs)),
        ):
            found.append(Finding(kind, name, text, mend))
    for table in report.tables if report.records else ():
        found += [
            Finding(kind, f"{table.title} [{table.selection}]", *rest) for kind, *rest in _of_table(table, report)
        ]
    return found


def notes(report: Report) -> list[Finding]:
    """What limits the tables as evidence, though their methods were treated alike.

    Trials that chose defaults are a finding for a primary comparison, which claims something, and else a note.
    """
    primaries = _primaries(report)
    return [
        Finding(kind, name, text, mend)
        for name, runs in _comparisons(report)
        for kind, text, mend in _tuned(runs, primaries, claimed=False)
    ]


def as_text(found: Sequence[Finding], noted: Sequence[Finding] = ()) -> str:
    """All findings, or that there is none, and the notes."""
    lines = [line for finding in found for line in finding.lines()]
    lines += [f"{len(found)} finding{'s' if len(found) > 1 else ''}." if found else "Nothing unfair was found."]
    lines += [line for note in noted for line in ("", *note.lines())]
    return "\n".join(lines) + "\n"


def _comparisons(report: Report) -> Iterator[tuple[str, list[Run]]]:
    """The name and the runs of each comparison: a dataset under one protocol."""
    for protocol, part in protocols.parts(report.records) if report.records else ():
        label = protocol.label if protocol else ""
        by_dataset: dict[str, list[Run]] = {}
        for run in part.runs:
            by_dataset.setdefault(run.dataset, []).append(run)
        for dataset, runs in sorted(by_dataset.items()):
            yield dataset + (f" ({label})" if label else ""), runs


def _by_method(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """The runs of each method, whose name has the harness if there are several."""
    several = len({run.harness for run in runs}) > 1
    methods: dict[str, list[Run]] = {}
    for run in runs:
        methods.setdefault(f"{run.algorithm} ({run.harness})" if several else run.algorithm, []).append(run)
    return methods


def _settings_and_trials(methods: Methods) -> Iterator[tuple[str, str, str]]:
    """Unequal numbers of settings, and unequal trials."""
    every_run = [run for runs in methods.values() for run in runs]
    tried = {name: settings_tried(runs) for name, runs in methods.items()}
    if len(set(tried.values())) > 1:
        few = [name for name, count in tried.items() if count < max(tried.values())]
        yield (
            "settings",
            f"the methods were tried with unequal numbers of settings ({_grouped(tried)}), which favours who had more.",
            _again(methods[few[0]], f"{max(tried.values())} settings of {', '.join(few)}", every_run),
        )
    trials = {name: sorted({run.trial for run in runs}) for name, runs in methods.items()}
    if len({tuple(numbers) for numbers in trials.values()}) > 1:
        every = sorted({number for numbers in trials.values() for number in numbers})
        few = [name for name, numbers in trials.items() if numbers != every]
        yield (
            "trials",
            f"the methods have unequal trials ({_grouped({name: _ranges(n) for name, n in trials.items()})}).",
            _again(methods[few[0]], f"trials {_ranges(every)} of {', '.join(few)}", every_run),
        )


def _jobs(methods: Methods) -> Iterator[tuple[str, str, str]]:
    """Jobs that are repeated, unfinished, or missing from a method's grid of environments, trials and settings."""
    for name, runs in methods.items():
        cells = Counter((run.test_envs, run.trial, _setting(run)) for run in runs)
        if repeated := sum(count - 1 for count in cells.values() if count > 1):
            folders = [str(run.folder) for run in runs if cells[run.test_envs, run.trial, _setting(run)] > 1]
            yield (
                "repeated",
                f"{repeated} jobs of {name} are there more than once, and the best on validation counts.",
                f"keep one of {shlex.join(folders[:2])}, and so on",
            )
        if unfinished := [run for run in runs if not (run.finished or run.stopped)]:
            yield (
                "missing",
                f"{len(unfinished)} of {len(runs)} jobs of {name} are not finished (first: {unfinished[0].folder}).",
                _again(runs, "the unfinished jobs"),
            )
        grid = {cell for trial in {run.trial for run in runs} for cell in _grid(runs, trial)}
        if missing := sorted(grid - set(cells), key=str):
            envs, trial, setting = missing[0]
            where = f"test environments {list(envs)}, " if envs else ""
            yield (
                "missing",
                f"{len(missing)} of {len(grid)} jobs of {name} are missing (first: {where}trial {trial}, {setting}).",
                _again(runs, "the missing jobs"),
            )


def _setting(run: Run) -> str:
    """The name of a run's setting: its hparams seed, or in WILDS, where runs may share one, its values."""
    if run.test_envs or run.hparams_seed:
        return f"hparams seed {run.hparams_seed}"
    return f"hparams {sorted(run.hparams.items())}"


def _grid(runs: Sequence[Run], trial: int) -> Iterator[tuple[tuple[int, ...], int, str]]:
    """The jobs of a trial that a complete sweep has: all environments, with all settings or the one of a search."""
    of_trial = [run for run in runs if run.trial == trial]
    if of_trial[0].protocol and of_trial[0].protocol.stage == "seeds":
        yield from ((run.test_envs, trial, _setting(run)) for run in of_trial)
        every = {run.test_envs for run in runs} - {run.test_envs for run in of_trial}
        yield from ((envs, trial, "the selected setting") for envs in every)
        return
    same_stage = [run for run in runs if not (run.protocol and run.protocol.stage == "seeds")]
    envs = {run.test_envs for run in same_stage}
    yield from itertools.product(envs, (trial,), {_setting(run) for run in same_stage})


def _facts(runs: Sequence[Run], methods: Methods) -> Iterator[tuple[str, str, str]]:
    """What differs between runs that should differ in the method alone."""
    for name, fact in FACTS.items():
        compared = {
            method: [run for run in of_method if fact(run) is not None]
            for method, of_method in methods.items()
            if not (name in SEARCHED and is_searched(of_method))
        }
        values = {method: {fact(run) for run in of_method} for method, of_method in compared.items() if of_method}
        distinct = sorted({str(value) for of_method in values.values() for value in of_method})
        if len(distinct) < 2:
            continue
        by_method = {method: " or ".join(sorted(map(str, of_method))) for method, of_method in values.items()}
        unlike = len(set(by_method.values())) > 1
        yield (
            name,
            f"runs differ in {name} ({_grouped(by_method) if unlike else ', '.join(distinct)}).",
            _again(runs, f"all methods with one {name}", change=_option(name, runs)),
        )


def _option(fact: str, runs: Sequence[Run]) -> str:
    """The option that sets a hyper-parameter to its most frequent value, beside those that all runs were given."""
    if fact not in SEARCHED:
        return ""
    ((value, _),) = Counter(sorted(filter(None, map(FACTS[fact], runs)))).most_common(1)
    if not runs[0].test_envs:
        return f"--{SEARCHED[fact]} {value}"
    given = {str(run.args.get("hparams") or "{}")[1:-1] for run in runs}
    entries = [*(given if len(given) == 1 else ()), f'"{SEARCHED[fact]}": {value}']
    return f"--hparams {shlex.quote('{' + ', '.join(filter(None, entries)) + '}')}"


def _harnesses(runs: Sequence[Run]) -> Iterator[tuple[str, str, str]]:
    names = sorted({run.harness for run in runs})
    if len(names) > 1:
        yield "harness", f"runs of {' and '.join(names)} are shown together.", f"all methods in one: {names[0]}, say"


def _groups(methods: Methods) -> Iterator[tuple[str, str, str]]:
    """Group labels that some methods train on and others do not."""
    using = [name for name, runs in methods.items() if any(map(trains_on_groups, runs))]
    if using and len(using) < len(methods):
        yield (
            "group labels",
            f"{', '.join(using)} trained on group labels, and the other methods did not.",
            "compare with methods that use them too, or leave these rows out",
        )


def _primaries(report: Report) -> list[tuple[str, Comparison]]:
    """The primary comparisons, each with its dataset."""
    return [(table.dataset, one) for table in report.tables for one in table.comparisons if one.is_primary]


def _tuned(
    runs: Sequence[Run], primaries: Sequence[tuple[str, Comparison]], claimed: bool = True
) -> Iterator[tuple[str, str, str]]:
    """Trials that chose defaults, where a primary comparison is about them (`claimed`), or where none is."""
    dataset = of_catalogue(runs[0])
    entries = dataset.chose_defaults if dataset else ()
    for entry in entries:
        tuned = [run for run in runs if chose(entry, run)]
        methods = {run.algorithm for run in tuned}
        about = any(of == runs[0].dataset and one.method in methods for of, one in primaries)
        if tuned and about == claimed:
            where = f", tested on {', '.join(entry.environments)}," if entry.environments else ""
            yield (
                "tuned",
                f"trials {_ranges(sorted({run.trial for run in tuned}))} of {', '.join(sorted(methods))}{where} chose "
                f"{', '.join(entry.defaults)} ({entry.source}), and are no independent evidence for it.",
                f"fresh trials: --first_trial {1 + max(max(other.trials) for other in entries)}",
            )


def _pretraining(runs: Sequence[Run]) -> Iterator[tuple[str, str, str]]:
    """Weights at the start that know the test domain, as the catalogue of datasets declares."""
    dataset = of_catalogue(runs[0])
    for entry in dataset.pretraining if dataset else ():
        if weights := sorted({str(pretrained_with(run)) for run in runs if entry.weights == pretrained_with(run)}):
            yield (
                "pretraining",
                f"the weights at the start ({', '.join(weights)}) {entry.shares} ({entry.source}).",
                "random weights, or say so beside the table; methods among each other have the same advantage",
            )


def _of_table(table: Table, report: Report) -> Iterator[tuple[str, str, str]]:
    """The selection, the trials, and ERM against its published figure."""
    if any(not row.published for row in table.rows):
        if table.selection == "oracle":
            yield "selection", "the selection looked at the test domain.", "--selection iid (average for WILDS)"
        if table.selection == "worst-group":
            yield "selection", "the selection used group labels.", "--selection average or worst-class"
    for comparison in table.comparisons:
        yield from _few_trials(comparison, table)
    for row in table.rows:
        if row.method == "ERM" and not row.published and not table.protocol:
            yield from _far(row, table, report)


def _few_trials(comparison: Comparison, table: Table) -> Iterator[tuple[str, str, str]]:
    """A difference that is claimed, as the primary comparison or as significant, with too few trials to see it."""
    significant = comparison.corrected is not None and comparison.corrected < LEVEL
    if not (comparison.is_primary or significant):
        return
    difference = comparison.difference
    needed = statistics.needed(difference, abs(difference.mean)) if difference.spread > 0 and difference.mean else None
    if difference.trials >= 2 and (
        needed is None or (needed.estimate or statistics.MOST_TRIALS + 1) <= difference.trials
    ):
        return
    enough = "at least 3" if needed is None else str(needed.estimate or f"over {statistics.MOST_TRIALS}")
    yield (
        "few trials",
        f"{comparison.method} against {table.baseline} in {comparison.column}: {difference.mean:+.1f} points over "
        f"{difference.trials} trials, and a difference of that size takes {enough} ({statistics.POWER:.0%} power).",
        f"--n_trials {enough}",
    )


def _far(row: Row, table: Table, report: Report) -> Iterator[tuple[str, str, str]]:
    """ERM against its published figure of the same protocol: rule, settings and trials."""
    runs = [run for run in (report.records.runs if report.records else []) if _is_of(run, row, table)]
    if row.source not in ("domainbed", "domainbed-standin") or not runs or settings_tried(runs) < _COMPLETE[0]:
        return
    for figure in published.figures(table.name):
        cell = row.cells.get(figure.column)
        if cell is None or (figure.method, figure.protocol) != ("ERM", f"domainbed-{table.selection}"):
            continue
        errors = 3 * ((cell.stderr or 0) ** 2 + float(figure.stderr or 0) ** 2) ** 0.5
        if (cell.trials or 0) >= _COMPLETE[1] and abs(cell.mean - float(figure.printed)) > max(FAR, errors):
            yield (
                "published",
                f"ERM has {cell.mean:.1f} in {figure.column}, and {figure.printed} is published under this protocol "
                f"({figure.source}).",
                "look for the cause before any method is compared: `cim-dg data verify`, backbone, weights, steps",
            )


def _is_of(run: Run, row: Row, table: Table) -> bool:
    return (run.dataset, run.algorithm, run.harness) == (table.dataset, row.method, row.source) and not run.protocol


def _again(runs: Sequence[Run], what: str, like: Sequence[Run] = (), change: str | None = None) -> str:
    """The command that runs `what` of the methods of `runs`, with as many settings and trials as `like` has.

    With a `change`, an option or "", it runs in a new folder.
    """
    run, like = runs[0], like or runs
    folder = run.folder.parent.parent if run.protocol else run.folder.parent
    root, option = "NEW" if change is not None else shlex.quote(str(folder)), f" {change}" if change else ""
    # DomainBed's own sweep counts its trials from 0.
    if run.protocol or (run.test_envs and all(other.trial for other in like)):
        how = "again" if change is None else f"with --output_dir NEW{option}"
        return f"{what}: the `cim-dg sweep` that made {shlex.quote(str(folder))}, {how}"
    if not run.test_envs:
        return (
            f"{what}: cim-dg wilds train --dataset {run.args.get('dataset', run.dataset)} --algorithm {run.algorithm}"
            f"{option} --resume ..., in folders of {root}"
        )
    single = " --single_test_envs" if all(len(run.test_envs) == 1 for run in runs) else ""
    algorithms = " ".join(sorted({str(run.args.get("algorithm", run.algorithm)) for run in runs}))
    return (
        f"{what}: python -m domainbed.scripts.sweep launch --datasets {dataset_of(run.dataset)} --algorithms "
        f"{algorithms}{single} --data_dir {shlex.quote(str(run.args.get('data_dir')))} --output_dir {root} --n_hparams "
        f"{1 + max(run.hparams_seed for run in like)} --n_trials {1 + max(run.trial for run in like)}{option}"
    )


def _grouped(values: Mapping[str, object]) -> str:
    """The methods of each value; of a value that more than three have, their number."""
    methods: dict[str, list[str]] = {}
    for name, value in sorted(values.items()):
        methods.setdefault(str(value), []).append(name)
    return "; ".join(
        f"{', '.join(names) if len(names) <= _NAMED else f'{len(names)} others'}: {value}"
        for value, names in sorted(methods.items(), key=lambda each: len(each[1]))
    )


def _ranges(numbers: Sequence[int]) -> str:
    """Sorted numbers as text."""
    first, last = numbers[0], numbers[-1]
    is_row = len(numbers) > 2 and list(numbers) == list(range(first, last + 1))
    return f"{first} to {last}" if is_row else ", ".join(map(str, numbers))
