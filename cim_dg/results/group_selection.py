"""Which epoch of a run of WILDS or SubpopBench counts: the best on validation, by the rule's metric."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cim_dg.results import read_subpopbench
from cim_dg.results.read_wilds import EXAMPLES, OWN_RUNNER, RULES, own_rule
from cim_dg.results.records import Records, Run

Figures = Mapping[tuple[str, str], float]  # (split, metric) -> value, 0 to 1

_HARNESSES = (OWN_RUNNER, EXAMPLES, read_subpopbench.HARNESS)


def by_rule(records: Records, rules: Sequence[str]) -> dict[str, dict[int, Run]]:
    """The runs to show under each rule: all under each of `rules`, of which "oracle" is SubpopBench's alone.

    If there are none, WILDS' runs are shown under their own rule, SubpopBench's under the rules of its collect_results.
    """
    runs = {number: run for number, run in enumerate(records.runs) if run.harness in _HARNESSES}
    of_run = {number: _rules(run, rules) for number, run in runs.items()}
    order = sorted(
        {rule for own in of_run.values() for rule in own}, key=lambda rule: ([*RULES, rule].index(rule), rule)
    )
    return {rule: {number: run for number, run in runs.items() if rule in of_run[number]} for rule in order}


def _rules(run: Run, asked: Sequence[str]) -> Sequence[str]:
    if is_subpopbench(run):
        return asked or read_subpopbench.RULES
    return [rule for rule in asked if rule != "oracle"] or [own_rule(run)]


def is_subpopbench(run: Run) -> bool:
    """Whether SubpopBench made this run."""
    return run.harness == read_subpopbench.HARNESS


def best_epochs(records: Records, runs: Mapping[int, Run], rule: str) -> dict[int, int]:
    """The best epoch of each run under `rule`. Runs without the validation figure that the rule needs are left out.

    Under a run's own rule it is the epoch that the run recorded, else the earliest of the best, as in run_expt.py.
    """
    frame = records.frame
    split, metric = chosen_by(rule)
    validation = frame[frame["run"].isin(list(runs)) & (frame["split"] == split) & (frame["metric"] == metric)]
    ranked = validation.dropna(subset="value").sort_values(["value", "step"], ascending=[False, True])
    best = ranked.drop_duplicates("run")
    epochs = {int(run): int(step) for run, step in zip(best["run"], best["step"], strict=True)}
    for number, run in runs.items():
        recorded = run.provenance.get("selected_epoch")
        if own_rule(run) == rule and isinstance(recorded, int):
            epochs[number] = recorded
    return epochs


def chosen_by(rule: str) -> tuple[str, str]:
    """The (split, metric) that a rule takes the best of."""
    return ("test", "worst_group") if rule == "oracle" else ("val", RULES.get(rule, rule))


def figures_at(records: Records, epochs: Mapping[int, int]) -> dict[int, Figures]:
    """Each run's figures at its best epoch."""
    frame = records.frame[records.frame["run"].isin(list(epochs))]
    at_best = frame[frame["step"] == frame["run"].map(epochs)]
    return {
        int(number): dict(zip(zip(part["split"], part["metric"], strict=True), part["value"], strict=True))
        for number, part in at_best.groupby("run")
    }
