"""SWAD's form of DomainBed (SWAD, MIRO and what is built on them): its arguments, and the averaged models of its log.

A folder of `train_all.py` holds one run per test environment: its checkpoints are lines of results.jsonl, as
DomainBed's are, with accuracies called `env0_in`; what the averaged model of a run reaches stands in log.txt alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cim_dg.results.records import Collector, Run

AVERAGED = " (averaged)"
"""Ends the harness of a model that is an average over steps; such models are compared among themselves."""
BAD_AVERAGE = "Averaged models whose figures in log.txt cannot be read"

_FORKS = ("swad", "miro")
_TEST_ENVS = re.compile(r"Test envs = \[([\d, ]+)\]")
_AVERAGE = re.compile(r"^([\d. ]+?)\s+\[(\d+)-(\d+)\]\s+\(N=\d+\)")
_ENDED = re.compile(r"(iid|training-domain validation) = ")


@dataclass
class Section:
    """What log.txt says of the run on one test environment."""

    test_envs: tuple[int, ...]
    ended: bool = False
    averaged: tuple[int, dict[str, float]] | None = None  # its last step, and its figures by name
    unreadable: bool = False


def is_family(harness: str) -> bool:
    """Whether runs of this harness follow SWAD's protocol and not DomainBed's."""
    return harness.removesuffix(AVERAGED) in _FORKS


def is_averaged(harness: str) -> bool:
    """Whether a run's model is an average."""
    return harness.endswith(AVERAGED)


def has_form(args: Mapping[str, Any]) -> bool:
    """Whether a record with these arguments was written by SWAD's trainer."""
    return "real_test_envs" in args


def as_domainbed(args: Mapping[str, Any], hparams: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The fork, and the arguments with the names that DomainBed has: nothing is drawn, so the hparams seed is 0."""
    fork = "miro" if "feat_layers" in hparams else "swad"
    return fork, {"hparams_seed": 0, **args, "test_envs": args["real_test_envs"]}


def add_averages(folder: Path, runs: dict[int, Run], collector: Collector) -> None:
    """Complete the runs of a folder from its log: whether each has ended, its command, and its averaged model.

    Args:
        folder: of `train_all.py`.
        runs: those that were read from its results.jsonl, by their numbers in `collector`.
        collector: takes the averaged models as runs of their own.
    """
    try:
        lines = (folder / "log.txt").read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        lines = []
    command = next((line.partition("Command :: ")[2] for line in lines if "Command :: " in line), "")
    provenance = {"command": f"python {command}"} if command else {}
    sections = {section.test_envs: section for section in _sections(lines)}
    for number, run in runs.items():
        section = sections.get(run.test_envs, Section(run.test_envs))
        waits = bool(run.hparams.get("swad")) and section.averaged is None and not section.unreadable
        complete = replace(run, finished=section.ended and not waits, provenance=run.provenance | provenance)
        collector.runs[number] = replace(complete, algorithm=collector.runs[number].algorithm)
        if section.unreadable:
            collector.skip(BAD_AVERAGE, folder / "log.txt")
        if section.averaged is not None:
            step, figures = section.averaged
            average = collector.begin(replace(complete, harness=run.harness + AVERAGED))
            names = [name for name in figures if re.fullmatch(r"env\d+_(in|out)", name)]
            collector.add(
                average, [step], collector.layout(tuple((name, "acc") for name in names)), [figures[n] for n in names]
            )


def _sections(lines: list[str]) -> Iterator[Section]:
    """The log by test environment; rows of figures stand under the last header, which has the names in ten letters."""
    section: Section | None = None
    header: list[str] = []
    for line in lines:
        text = line.split(" | ", 1)[-1].strip()
        if match := _TEST_ENVS.match(text):
            if section is not None:
                yield section
            section, header = Section(tuple(map(int, match[1].split(",")))), []
        elif section is None:
            continue
        elif text.startswith("test_in "):
            header = text.split()
        elif match := _AVERAGE.match(text):
            values = match[1].split()
            try:
                figures = dict(zip(header, map(float, values), strict=False))
                section.averaged = int(match[3]), figures
                section.unreadable = not {f"env{env}_in" for env in section.test_envs} <= figures.keys()
            except ValueError:
                section.unreadable = True
            if section.unreadable:
                section.averaged = None
        elif _ENDED.match(text):
            section.ended = True
    if section is not None:
        yield section
