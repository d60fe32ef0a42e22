"""DomainBed's three selection rules, on the frame of the records: the same choices as DomainBed's, ties included.

Every rule picks one (hparams, checkpoint) for each cell (harness, data set, algorithm, test environment, trial) by a
validation accuracy and reports the accuracy on the in-split of the test environment. Gulrajani & Lopez-Paz, "In Search
of Lost Domain Generalization", 2021, section 3.2.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from cim_dg.errors import UserError
from cim_dg.results.read_swad import is_averaged, is_family
from cim_dg.results.records import Records

CELL = ["harness", "dataset", "algorithm", "test_env", "trial"]

# DomainBed's names.
TITLES = {
    "iid": "training-domain validation set",
    "leave-one-out": "leave-one-domain-out cross-validation",
    "oracle": "test-domain validation set (oracle)",
}


def select(records: Records, rule: str) -> pd.DataFrame:
    """The selected checkpoint of every cell to which `rule` applies.

    Returns a frame with a row per cell: harness, dataset, algorithm, test_env, trial, hparams_seed, step, validation
    (the accuracy that chose it), value (the test accuracy, 0 to 1), run and checkpoint (as in the records), n_envs.
    Cells are in the order in which their first record was read, in which DomainBed averages them.

    Raises:
        UserError: there is no such rule.
    """
    return ranking(records, rule).drop_duplicates(CELL, ignore_index=True)


def ranking(records: Records, rule: str) -> pd.DataFrame:
    """The selected checkpoint of every hparams seed of every cell, in the columns of `select`.

    Cells are in the order of `select`, and the hparams seeds of a cell from the best to the worst.

    Raises:
        UserError: there is no such rule.
    """
    if rule not in _RULES:
        raise UserError(f"{rule!r} is no selection rule of DomainBed; choose from {', '.join(_RULES)}.")
    candidates = [_RULES[rule](table) for table in _wide(records)]
    ranked = [_rank(table) for table in candidates if len(table)]
    if not ranked:
        return pd.DataFrame(
            columns=[*CELL, "hparams_seed", "step", "validation", "value", "run", "checkpoint", "n_envs"]
        )
    cell_order = _reading_order(records)
    settings = pd.concat(ranked)
    order = np.argsort(
        [cell_order[cell] for cell in zip(*(settings[name] for name in CELL), strict=True)], kind="stable"
    )
    return settings.iloc[order].reset_index(drop=True)


def _reading_order(records: Records) -> dict[tuple[object, ...], int]:
    """DomainBed's order of the cells, in which it sums, including jobs with two test environments."""
    cell_order: dict[tuple[object, ...], int] = {}
    for run in records.runs:
        for env in run.test_envs:
            cell_order.setdefault((run.harness, run.dataset, run.algorithm, env, run.trial), len(cell_order))
    return cell_order


def unserved(records: Records, rule: str) -> str | None:
    """Why `rule` applies to no cell of these records, and what to run instead; None if it applies to one."""
    if not any(run.test_envs for run in records.runs) or len(select(records, rule)):
        return None
    if rule == "leave-one-out":
        return (
            "leave-one-domain-out cross-validation cannot be computed: it needs, beside the jobs with one test "
            "environment, those with two, which a sweep with --single_test_envs leaves out. Run `python -m "
            "domainbed.scripts.sweep launch` again without --single_test_envs, with the same --output_dir: it starts "
            "only the jobs that are missing."
        )
    return (
        f"{TITLES[rule]} cannot be computed: no job with exactly one test environment has a result. Run jobs with a "
        "single test environment."
    )


class _Wide:
    """The checkpoints of one data set under one harness: accuracies as matrices (checkpoints, environments)."""

    def __init__(self, records: Records, rows: np.ndarray) -> None:
        """Args: the records, and their rows with accuracies of the data set."""
        frame = records.frame
        places = frame["split"].cat.categories.str.extract(r"^env(\d+)_(in|out)$")
        code = frame["split"].cat.codes.to_numpy()[rows]
        known = places[0].notna().to_numpy()[code]
        rows, code = rows[known], code[known]
        column = places[0].fillna("0").astype(np.int64).to_numpy()[code]
        inside = (places[1] == "in").to_numpy()[code].astype(np.int64)
        checkpoint = frame["checkpoint"].to_numpy()[rows]
        begins = np.diff(checkpoint, prepend=-1) > 0  # the frame has them in ascending order
        self.n_envs = int(column.max(initial=-1)) + 1
        accuracies = np.full((2, int(begins.sum()), self.n_envs), np.nan)
        accuracies[inside, np.cumsum(begins) - 1, column] = frame["value"].to_numpy()[rows]
        self.outs, self.ins = accuracies
        self.checkpoints = checkpoint[begins]
        self.runs = frame["run"].to_numpy()[rows[begins]]
        self.steps = frame["step"].to_numpy()[rows[begins]]
        self.records = records

    def of_run(self, name: str) -> np.ndarray:
        return np.array([getattr(run, name) for run in self.records.runs])[self.runs]

    def with_test_envs(self, count: int) -> np.ndarray:
        return np.array([len(run.test_envs) for run in self.records.runs])[self.runs] == count

    def candidates(self, rows: np.ndarray, test_env: np.ndarray) -> pd.DataFrame:
        """These checkpoints as candidates for the cells of their test environment."""
        return pd.DataFrame(
            {
                "harness": self.of_run("harness")[rows],
                "dataset": self.of_run("dataset")[rows],
                "algorithm": self.of_run("algorithm")[rows],
                "test_env": test_env,
                "trial": self.of_run("trial")[rows],
                "hparams_seed": self.of_run("hparams_seed")[rows],
                "step": self.steps[rows],
                "value": self.ins[rows, test_env],
                "run": self.runs[rows],
                "checkpoint": self.checkpoints[rows],
                "n_envs": self.n_envs,
            }
        )

    def singles(self) -> tuple[np.ndarray, np.ndarray]:
        """The rows of jobs with one test environment (that the data set has), and that environment."""
        envs = np.array([run.test_envs[0] if len(run.test_envs) == 1 else -1 for run in self.records.runs])[self.runs]
        rows = np.flatnonzero((envs >= 0) & (envs < self.n_envs))
        return rows, envs[rows]


def _wide(records: Records) -> list[_Wide]:
    frame = records.frame
    if not len(frame):
        return []
    kinds: dict[tuple[str, str], int] = {}
    of_run = [kinds.setdefault((run.harness, run.dataset), len(kinds)) for run in records.runs]
    rows = np.flatnonzero((frame["metric"] == "acc") & (frame["test_envs"] != ""))
    kind = np.array(of_run)[frame["run"].to_numpy()[rows]]
    parts = [rows[kind == number] for number in kinds.values()]
    return [_Wide(records, part) for part in parts if len(part)]


def _iid(wide: _Wide) -> pd.DataFrame:
    """The best mean out-accuracy over the training environments, over checkpoints too (early stopping)."""
    rows, test_env = wide.singles()
    candidates = wide.candidates(rows, test_env).assign(validation=np.nan)
    for env in np.unique(test_env):
        others = [column for column in range(wide.n_envs) if column != env]
        # A contiguous copy, so that NumPy adds up each row in the same order as np.mean does DomainBed's list.
        candidates.loc[test_env == env, "validation"] = np.ascontiguousarray(
            wide.outs[rows[test_env == env]][:, others]
        ).mean(axis=1)
    return candidates.dropna(subset=["value"])


def _oracle(wide: _Wide) -> pd.DataFrame:
    """The out-accuracy of the test environment at the last checkpoint (no early stopping).

    SWAD takes the best checkpoint instead; its averages, which are chosen by training domains, have no part in it.
    """
    rows, test_env = wide.singles()
    candidates = wide.candidates(rows, test_env).assign(validation=wide.outs[rows, test_env])
    harness = "" if candidates.empty else candidates["harness"].iloc[0]
    if is_averaged(harness):
        return candidates.head(0)
    if is_family(harness):
        return candidates.dropna(subset=["value"])
    last = candidates.sort_values("step", kind="stable").drop_duplicates([*CELL, "hparams_seed"], keep="last")
    return last.sort_index().dropna(subset=["value"])


def _leave_one_out(wide: _Wide) -> pd.DataFrame:
    """The mean in-accuracy on the second test environment of the jobs with two, each left out in turn."""
    point = [*CELL, "hparams_seed", "step"]
    rows, test_env = wide.singles()
    candidates = wide.candidates(rows, test_env).drop_duplicates(point, keep=False)
    pair_rows = np.flatnonzero(wide.with_test_envs(2))
    if not len(pair_rows):
        return candidates.head(0)
    pairs = np.array([wide.records.runs[run].test_envs for run in wide.runs[pair_rows]]).reshape(-1, 2)
    held_out = []
    for test, other in ((0, 1), (1, 0)):
        inside = (pairs < wide.n_envs).all(axis=1)
        part = wide.candidates(pair_rows[inside], pairs[inside, test])
        part["other"] = pairs[inside, other]
        part["held_out"] = wide.ins[pair_rows[inside], pairs[inside, other]]
        held_out.append(part)
    seen = pd.concat(held_out).drop_duplicates([*point, "other"], keep="last")
    table = seen.pivot(index=point, columns="other", values="held_out").reindex(columns=range(wide.n_envs))
    index = pd.MultiIndex.from_frame(candidates[point])
    accuracies = table.reindex(index).to_numpy()
    candidates = candidates.assign(validation=np.nan)
    for env in np.unique(candidates["test_env"]):
        others = [column for column in range(wide.n_envs) if column != env]
        of_env = (candidates["test_env"] == env).to_numpy()
        sums = np.ascontiguousarray(accuracies[of_env][:, others]).sum(axis=1)
        candidates.loc[of_env, "validation"] = sums / (wide.n_envs - 1)
    return candidates.dropna(subset=["validation", "value"])


_RULES: dict[str, Callable[[_Wide], pd.DataFrame]] = {"iid": _iid, "leave-one-out": _leave_one_out, "oracle": _oracle}


def _rank(candidates: pd.DataFrame) -> pd.DataFrame:
    """The best checkpoint of each setting, the best setting of a cell first; ties fall as in DomainBed.

    Among checkpoints the earliest record wins, among settings the highest seed. A NaN validation accuracy is
    below all others, except that DomainBed selects checkpoints by Python's `max`, which keeps a NaN that comes first.
    """
    validation = candidates["validation"]
    kept_nan = validation.isna() & ~candidates.duplicated([*CELL, "hparams_seed"])
    earliest = validation.mask(kept_nan, np.inf).sort_values(ascending=False, kind="stable").index
    per_setting = candidates.loc[earliest].drop_duplicates([*CELL, "hparams_seed"])
    return per_setting.sort_values(["validation", "hparams_seed"], ascending=False, kind="stable")
