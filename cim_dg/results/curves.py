"""Learning curves as data: accuracy by step of the runs that a table shows."""

from __future__ import annotations

import numpy as np
import pandas as pd

from cim_dg.results.records import Records

COLUMNS = ["panel", "method", "source", "run", "step", "value"]


def domain_curves(records: Records, selected: pd.DataFrame, dataset: str) -> pd.DataFrame:
    """The curves of DomainBed's selected runs: a row per run, step and panel (test or validation), in percent."""
    chosen = selected[selected["dataset"] == dataset][["run", "test_env", "harness", "algorithm"]].drop_duplicates(
        "run"
    )
    frame = records.frame[(records.frame["metric"] == "acc") & records.frame["run"].isin(chosen["run"])]
    frame = frame[["run", "step", "split", "value"]].merge(chosen, on="run")
    split_parts = frame["split"].astype(str).str.extract(r"^env(\d+)_(in|out)$")
    is_test_env = split_parts[0].astype(float) == frame["test_env"].astype(float)
    panels = ["test domain", "validation (training domains)"]
    frame["panel"] = np.select(
        [is_test_env & (split_parts[1] == "in"), ~is_test_env & (split_parts[1] == "out")], panels, ""
    )
    return _means(frame[frame["panel"] != ""])


def group_curves(records: Records, runs: list[int]) -> pd.DataFrame:
    """The curves of WILDS runs: a row per run, epoch and panel (worst group and average on test), values in percent."""
    panels = {"worst_group": "worst group (test)", "average": "average (test)"}
    frame = records.frame
    frame = frame[frame["run"].isin(runs) & (frame["split"] == "test") & frame["metric"].isin(list(panels))]
    return _means(frame.assign(panel=frame["metric"].astype(str).map(panels)))


def _means(frame: pd.DataFrame) -> pd.DataFrame:
    frame = frame.rename(columns={"algorithm": "method", "harness": "source"}).assign(value=100 * frame["value"])
    return frame.groupby(COLUMNS[:-1], observed=True, as_index=False, sort=False)["value"].mean()
