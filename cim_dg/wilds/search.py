"""The random settings of `--hparams_seed`, in DomainBed's stream, and a warning about settings that fail."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from typing_extensions import TypedDict

from cim_dg import hparams as spaces
from cim_dg.hparams import HParam
from cim_dg.hparams.space import Distribution


class Search(TypedDict, total=False):
    """The distributions of a dataset's options. A method's own hyper-parameters have theirs in hparams/METHOD.yaml."""

    lr: Distribution
    weight_decay: Distribution
    batch_size: Distribution


def space(search: Search, algorithm: str) -> tuple[dict[str, HParam], dict[str, HParam]]:
    """What `--hparams_seed` draws: options of the run, and hyper-parameters of the method."""
    options = {
        name: HParam("", "int" if name == "batch_size" else "float", 1, random=distribution)  # type: ignore[arg-type]
        for name, distribution in search.items()
    }
    return options, {name: entry for name, entry in spaces.space(algorithm).items() if entry.random is not None}


def draw(search: Search, algorithm: str, hparams_seed: int, seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """The values of `space` in trial `seed`; none for hparams_seed 0, which means the defaults, as in DomainBed."""
    if not hparams_seed:
        return {}, {}
    stream = spaces.seed_hash(hparams_seed, seed)
    options, own = space(search, algorithm)
    return spaces.sample(options, stream), spaces.sample(own, stream)


def warning(options: Mapping[str, Any]) -> str | None:
    """Why a run of `options` (dataset, optimizer, lr, weight_decay) is likely to fail; None if nothing is known."""
    if (options["dataset"], options["optimizer"]) != ("waterbirds", "SGD"):
        return None
    if not (options["lr"] <= 1e-5 and options["weight_decay"] >= 1):
        return None
    return (
        "with WILDS' own defaults for Waterbirds (lr 1e-5, weight decay 1) ERM is reported to predict one class only "
        "(p-lambda/wilds issue 148); --defaults waterbirds-group_dro has those of Sagawa et al. (lr 1e-3, weight decay "
        "1e-4), and `cim-dg sweep waterbirds` searches for each method"
    )
