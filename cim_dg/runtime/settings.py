"""The environment variables CIM_DG_*: each is declared once, with type, default and help, and read through `get`.

`python -m cim_dg.runtime.settings` prints their table in Markdown. `cim_dg.autoload` reads its own two itself, because
it may import only the standard library; they are declared here like the others.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cim_dg.errors import UserError

PREFIX = "CIM_DG_"


@dataclass(frozen=True)
class Kind:
    """A type of setting: its name, the accepted values for messages, and a parser of text that may raise ValueError."""

    name: str
    accepted: str
    read: Callable[[str], Any]


@dataclass(frozen=True)
class Setting:
    """One variable.

    Attributes:
        name: the environment variable.
        kind: its type.
        default: the value if the variable is not set or empty.
        help: its purpose in one line.
        default_text: the default's text in the table, if it differs.
        internal: set by this package for its own processes, and not in the table.
    """

    name: str
    kind: Kind
    default: Any
    help: str
    default_text: str | None = None
    internal: bool = False


def get(name: str) -> Any:
    """The value of a setting: the environment variable's, or the default.

    Raises:
        UserError: the variable's value is not accepted.
    """
    setting = SETTINGS[name]
    text = os.environ.get(name, "")
    if not text:
        return setting.default
    try:
        return setting.kind.read(text)
    except ValueError:
        raise UserError(f"{name} is {text!r}; accepted is {setting.kind.accepted}") from None


def describe() -> list[tuple[str, str, str]]:
    """Name, value as text, and source (environment or default) of every setting; for an invalid value, the error."""
    rows = []
    for setting in _listed():
        value, source = _default_text(setting), "default"
        if os.environ.get(setting.name):
            value, source = os.environ[setting.name], "environment"
            try:
                get(setting.name)
            except UserError as error:
                value = str(error)
        rows.append((setting.name, value, source))
    return rows


def table() -> str:
    """The settings as a table in Markdown."""
    lines = ["| variable | type | default | use |", "|---|---|---|---|"]
    lines += [f"| `{s.name}` | {s.kind.name} | {_default_text(s)} | {s.help} |" for s in _listed()]
    return "\n".join(lines) + "\n"


def passed_on() -> dict[str, str]:
    """The settings of this environment, for processes on other machines."""
    return {name: value for name, value in os.environ.items() if name.startswith(PREFIX)}


def _listed() -> list[Setting]:
    return [setting for setting in SETTINGS.values() if not setting.internal]


def _default_text(setting: Setting) -> str:
    return str(setting.default) if setting.default_text is None else setting.default_text


def _if(holds: bool, value: Any) -> Any:
    if not holds:
        raise ValueError
    return value


def _whole(least: int) -> Kind:
    def read(text: str) -> int:
        return _if(text.isascii() and text.isdecimal() and int(text) >= least, int(text))

    return Kind("whole number", f"a whole number of at least {least}", read)


def _read_share(text: str) -> float:
    value = float(text)
    return _if(0 <= value < 1 or (value >= 1 and value.is_integer()), value)


def _read_gigabytes(text: str) -> float:
    return _if(0 <= float(text) < math.inf, float(text))


def _read_mapping(text: str) -> dict[str, Any]:
    import yaml

    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(text) from error
    return _if(isinstance(value, dict), value)


SWITCH = Kind("0 or 1", "0 or 1", lambda text: _if(text in ("0", "1"), text == "1"))
FOLDER = Kind("folder", "a folder, or 0", str)
GIGABYTES = Kind("number", "a number of gigabytes, at least 0", _read_gigabytes)
SHARE = Kind("number", "0, a fraction such as 0.25, or a whole number", _read_share)
MAPPING = Kind("YAML or JSON", "names with values, such as '{timeout_min: 240}'", _read_mapping)
CLUSTER = Kind("name", "slurm or local", lambda text: _if(text in ("slurm", "local"), text))
NAMES = Kind("names", "names separated by commas", lambda text: tuple(text.replace(",", " ").split()))

_ALL = (
    Setting("CIM_DG_AUTOLOAD", SWITCH, True, "0 switches the plugin off", "1"),
    Setting(
        "CIM_DG_STANDIN",
        SWITCH,
        None,
        "1 forces the stand-in for DomainBed, 0 refuses it",
        "the stand-in where there is no DomainBed",
    ),
    Setting("CIM_DG_STANDIN_ANNOUNCED", SWITCH, False, "the stand-in has announced itself", internal=True),
    Setting("CIM_DG_RUNG", _whole(2), None, "the part of its length, 1/this, after which a job pauses", internal=True),
    Setting(
        "CIM_DG_DATASETS",
        FOLDER,
        None,
        "where `cim-dg data register` notes datasets of your own",
        "the user's configuration folder",
    ),
    Setting(
        "CIM_DG_CACHE",
        FOLDER,
        None,
        "where decoded images are kept; 0 for nowhere",
        "the user's cache folder; `$SCRATCH/cim-dg`, or else `/var/tmp`, where a home is small",
    ),
    Setting("CIM_DG_CACHE_GB", GIGABYTES, 20.0, "the most that cache may hold, in gigabytes (10^9 bytes)", "20"),
    Setting("CIM_DG_CACHE_DOMAINBED", SWITCH, False, "1 lets a real DomainBed's image folders use that cache", "0"),
    Setting("CIM_DG_CHECKPOINT_SECONDS", _whole(0), 30, "seconds of training between two checkpoints, at least"),
    Setting("CIM_DG_LOCKS", SWITCH, True, "0 does without file locks, on a file system that has none", "1"),
    Setting("CIM_DG_LOG", NAMES, (), "where a run's curves go while it runs: tensorboard, wandb, or both", "nowhere"),
    Setting("CIM_DG_JOBS", _whole(1), None, "jobs side by side in `parallel` and `pool`", "one for each GPU or core"),
    Setting(
        "CIM_DG_JOBS_PER_GPU", _whole(1), None, "jobs side by side on a GPU in `pool`", "as many as its memory holds"
    ),
    Setting("CIM_DG_GPUS_PER_JOB", SHARE, None, "GPUs of a job in `ray`", "1, or 0 in a cluster without any"),
    Setting("CIM_DG_CPUS_PER_JOB", SHARE, 1.0, "cores of a job in `ray`", "1"),
    Setting(
        "CIM_DG_RETRIES", _whole(0), 2, "how often `pool` and `ray` start a job again whose worker or machine died"
    ),
    Setting("CIM_DG_MAX_FAILURES", _whole(1), 3, "how often a job may fail before launchers leave it out"),
    Setting("CIM_DG_REQUIRE_GPU", SWITCH, False, "1 makes a run without a usable GPU an error", "0"),
    Setting("CIM_DG_KEEP_LOGITS", SWITCH, True, "0 keeps no logits of the test images, for `collect --metrics`", "1"),
    Setting("CIM_DG_SKIP_MODEL_SAVE", SWITCH, False, "1 keeps no model of a finished job of a sweep", "0"),
    Setting("CIM_DG_SLURM", MAPPING, {}, "submitit's parameters of a job in `slurm`", "a GPU, 8 cores, a day"),
    Setting("CIM_DG_SLURM_ARRAY", _whole(1), 1000, "tasks of an array of `slurm`, at most"),
    Setting("CIM_DG_SLURM_JOBS", _whole(1), 1, "jobs of a task of `slurm`, which run as in `pool`"),
    Setting("CIM_DG_SLURM_CLUSTER", CLUSTER, "slurm", "`local` runs the jobs of `slurm` at once here, as a trial"),
)
SETTINGS = {setting.name: setting for setting in _ALL}
"""Every setting by the name of its variable."""


if __name__ == "__main__":
    print(table(), end="")
