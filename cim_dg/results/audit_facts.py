"""What an audit compares of runs: the same facts of any harness, from their records."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from cim_dg.hparams import SMALL_IMAGES
from cim_dg.results.domains import dataset_of, environments
from cim_dg.results.records import Run
from cim_dg.results.run_facts import printed_versions

if TYPE_CHECKING:
    from cim_dg.data.catalogue import ChoseDefaults, Dataset

_BACKBONE = ("resnet18", "resnet50_augmix", "vit", "dinov2")
_IMAGENET = "imagenet"
_GROUPED = ("waterbirds", "celebA")
"""WILDS' datasets whose domains are the groups of their figures."""


def _args(*names: str) -> Callable[[Run], str | None]:
    """The options of these names, as text; None for a run that records none of them."""

    def fact(run: Run) -> str | None:
        values = {name: run.args[name] for name in names if run.args.get(name) not in (None, {}, [])}
        return " ".join(str(value) for value in values.values()) or None

    return fact


def _hparam(name: str) -> Callable[[Run], str | None]:
    def fact(run: Run) -> str | None:
        return None if run.hparams.get(name) is None else str(run.hparams[name])

    return fact


def _backbone(run: Run) -> str | None:
    if "model" in run.args or "image_arch" in run.args:
        return _args("model", "image_arch")(run)
    if dataset_of(run.dataset) in SMALL_IMAGES:
        return None
    kept = [name for name in _BACKBONE if run.hparams.get(name)]
    return "+".join(kept) or ("resnet50" if "resnet18" in run.hparams else None)


def _weights(run: Run) -> str | None:
    value = run.provenance.get("weights") or run.hparams.get("weights")
    return None if value is None else str(value)


def _length(run: Run) -> str | None:
    if "n_epochs" in run.args:
        return f"{run.args['n_epochs']} epochs"
    return None if run.args.get("steps") is None else f"{run.args['steps']} steps"


def _optimizer(run: Run) -> str | None:
    if "optimizer" in run.args:
        return _args("optimizer", "optimizer_kwargs", "scheduler", "scheduler_kwargs")(run)
    return "LARS" if run.hparams.get("lars") else "Adam" if "lars" in run.hparams else None


def _code(run: Run) -> str | None:
    commit = run.provenance.get("git_commit") or run.provenance.get("commit")
    return str(commit) if commit or not run.provenance.get("versions") else _version(run, "cim-dg".__eq__)


def _version(run: Run, keep: Callable[[str], bool]) -> str | None:
    versions = run.provenance.get("versions")
    if not isinstance(versions, dict):
        return ", ".join(printed_versions(run)) or None
    return (
        ", ".join(f"{name} {version}" for name, version in sorted(versions.items()) if version and keep(name)) or None
    )


SEARCHED = {"batch size": "batch_size", "learning rate": "lr", "weight decay": "weight_decay"}
"""Facts that a search of settings draws, and their hyper-parameters. They are compared where there is none."""

FACTS: dict[str, Callable[[Run], str | None]] = {
    "backbone": _backbone,
    "weights": _weights,
    "steps or epochs": lambda run: _length(run) or "the dataset's default",
    **{name: _hparam(hparam) for name, hparam in SEARCHED.items()},
    "resolution": _args("target_resolution", "transform"),
    "optimiser": _optimizer,
    "code": _code,
    "library versions": lambda run: _version(run, "cim-dg".__ne__),
}
"""The facts by name; None where a run's record does not tell."""


def is_searched(runs: Sequence[Run]) -> bool:
    """Whether settings were drawn for a method: it has hparams seeds above 0."""
    return any(run.hparams_seed for run in runs)


def trains_on_groups(run: Run) -> bool:
    """Whether a run of WILDS trained on the labels of the groups that its figures are of."""
    return bool(run.provenance.get("used_domains")) and run.args.get("dataset") in _GROUPED


def of_catalogue(run: Run) -> Dataset | None:
    """The catalogue's entry of a run's dataset; None for the user's own, and for other data in a known format."""
    from cim_dg.data.catalogue import of_harness

    if "format" in run.dataset:
        return None
    return of_harness("domainbed" if run.test_envs else "wilds", str(run.args.get("dataset", run.dataset)))


def chose(entry: ChoseDefaults, run: Run) -> bool:
    """Whether a run is of the trials, methods and environments that chose defaults."""
    names = environments(run.dataset)
    tested = {names[env] for env in run.test_envs if env < len(names)}
    return (
        run.trial in entry.trials
        and run.args.get("algorithm", run.algorithm) in entry.methods
        and (not entry.environments or bool(tested & set(entry.environments)))
    )


def pretrained_with(run: Run) -> str | None:
    """What the weights at the start were trained on: "imagenet", or None for random weights and those of a file.

    The real DomainBed records no weights: its featurizers of large images start from ImageNet's.
    """
    weights = _weights(run)
    if weights is None:
        large = bool(run.test_envs) and dataset_of(run.dataset) not in SMALL_IMAGES and "resnet18" in run.hparams
        return _IMAGENET if large and not run.harness.endswith("standin") else None
    return _IMAGENET if any(word in weights.lower() for word in ("imagenet", "in1k", "efficientnet")) else None
