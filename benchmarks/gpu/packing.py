"""Two jobs side by side on a GPU against the same two one after the other, both by the stand-in's launcher `pool`."""

from __future__ import annotations

import os
import shlex
import statistics
import time
from collections.abc import Iterator

from benchmarks.gpu.jobs import ALGORITHM, DATASET, records, train_arguments
from benchmarks.gpu.section import Row, Section, Setup
from cim_dg.domainbed.launchers import TRAIN, job
from cim_dg.errors import RunError
from cim_dg.launchers.machine import pool
from cim_dg.runtime import devices

JOBS = 2


def rows(setup: Setup) -> Iterator[Row]:
    """One job at a time, then both; each from the call to the end, the import of PyTorch included."""
    steps, every = (2, 2) if setup.small else (600, 200)
    seconds: list[float] = []
    if setup.cuda:
        os.environ[devices.VISIBLE] = devices.gpus()[0]
    for at_once in (1, JOBS):
        os.environ["CIM_DG_JOBS_PER_GPU" if setup.cuda else "CIM_DG_JOBS"] = str(at_once)
        folders = [setup.folder / f"{at_once}-at-once-{number}" for number in range(JOBS)]
        commands = [
            shlex.join([*TRAIN, *train_arguments(folder, steps, every, setup.small, number)])
            for number, folder in enumerate(folders)
        ]
        jobs = [job(command) for command in commands]
        for folder in folders:
            folder.mkdir(parents=True)
        start = time.perf_counter()
        endings = pool(jobs, bar=False)
        seconds.append(time.perf_counter() - start)
        if failures := [why for job_, ending in endings.items() if (why := ending.failure(job_))]:
            raise RunError(failures[0])
        # The first record's time has the start of the training in it.
        steps_taken = [record["step_time"] for folder in folders for record in records(folder)[1:]]
        yield Row(
            (
                str(at_once),
                f"{seconds[-1]:.1f}",
                f"{JOBS * 3600 / seconds[-1]:.0f}",
                f"{1000 * statistics.mean(steps_taken):.1f}",
                f"{seconds[0] / seconds[-1]:.2f}",
            )
        )


SECTION = Section(
    "packing",
    f"Two jobs on one GPU by the launcher pool ({ALGORITHM}, {DATASET}, 600 steps of 2 x 32 images of 36 x 36 pixels)",
    ("jobs at once", "s for both", "jobs / hour", "ms of a step", "times as many as one at once"),
    80,
    rows,
)
