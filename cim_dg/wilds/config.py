"""The configuration of `cim-dg wilds train`: run_expt.py's options and ours, with the defaults of each dataset."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_type_hints

from annotated_types import Ge, Gt, Le, MaxLen, MinLen

from cim_dg.data import own
from cim_dg.errors import UserError
from cim_dg.runtime.schema import suggestion, validated

OF_WILDS = ("waterbirds", "celebA", "camelyon17", "iwildcam", "fmow", "rxrx1")
DATASETS = (*OF_WILDS, "backgrounds")
IMAGENET_MODELS = ("resnet18", "resnet34", "resnet50", "densenet121")
Model = Literal["resnet18", "resnet34", "resnet50", "densenet121", "efficientnet_lite0", "small-cnn"]
Transform = Literal["image_base", "image_resize", "image_resize_and_center_crop", "rxrx1", "imagenet"]
Optimizer = Literal["SGD", "Adam", "AdamW"]
Scheduler = Literal[
    "linear_schedule_with_warmup", "cosine_schedule_with_warmup", "ReduceLROnPlateau", "StepLR", "MultiStepLR"
]
Selection = Literal["average", "worst-class", "worst-group", "macro-f1"]
MODELS, TRANSFORMS, OPTIMIZERS = get_args(Model), get_args(Transform), get_args(Optimizer)
SCHEDULERS, SELECTIONS = get_args(Scheduler), get_args(Selection)
Count = Annotated[int, Ge(1), Le(2**31 - 1)]
Seed = Annotated[int, Ge(0), Le(2**32 - 1)]
Side = Annotated[int, Ge(1), Le(2**14)]
Rate = Annotated[float, Ge(0), Le(1e30)]
Scalar = bool | int | float | str | None
Arguments = dict[str, Scalar | list[Scalar]]


@dataclass(frozen=True)
class Config:
    """One training run. Names and meanings are those of WILDS' run_expt.py, except for the options marked as ours.

    Raises:
        UserError: options contradict each other.
    """

    dataset: str
    algorithm: str
    root_dir: str
    model: Model
    transform: Transform
    optimizer: Optimizer
    lr: Rate
    weight_decay: Rate
    batch_size: Count
    n_epochs: Count
    groupby_fields: list[str]
    log_dir: str = "logs"
    seed: Seed = 0
    split_scheme: str = "official"
    dataset_kwargs: Arguments = field(default_factory=dict)
    version: str | None = None
    download: bool = False
    frac: Annotated[float, Gt(0), Le(1)] = 1.0
    loader_kwargs: Arguments = field(default_factory=dict)
    train_loader: Literal["standard", "group"] = "standard"
    uniform_over_groups: bool | None = None
    distinct_groups: bool = True
    n_groups_per_batch: Count = 4
    model_kwargs: Arguments = field(default_factory=dict)
    pretrained_model_path: str | None = None
    target_resolution: Annotated[list[Side], MinLen(1), MaxLen(2)] | None = None
    resize_scale: Annotated[float, Gt(0), Le(100)] | None = None
    optimizer_kwargs: Arguments = field(default_factory=dict)
    scheduler: Scheduler | None = None
    scheduler_kwargs: Arguments = field(default_factory=dict)
    scheduler_metric_name: str | None = None
    max_grad_norm: Annotated[float, Gt(0)] | None = None
    eval_splits: list[str] | None = None
    device: str = "auto"
    log_every: Count = 50
    progress_bar: bool = False
    resume: bool = False
    # Ours.
    hparams: dict[str, Any] = field(default_factory=dict)
    hparams_seed: Annotated[int, Ge(0), Le(2**31 - 1)] = 0
    bf16: bool = False
    selection: Selection = "average"
    use_domains: bool = False
    images_per_class: Count = 1
    report_groups: list[str] | None = None
    ignored_groups: list[str] = field(default_factory=list)
    adjust_average: bool = False
    adversarial: bool = False

    def __post_init__(self) -> None:
        if self.selection == "worst-group" and not self.report_groups:
            raise UserError(
                f"{self.dataset} has no groups to select by; accepted is selection average, worst-class or macro-f1"
            )
        if self.adjust_average and not self.report_groups:
            raise UserError("adjust_average needs report_groups, whose shares of the training split it takes")
        if self.adversarial and self.dataset != "backgrounds":
            raise UserError(f"adversarial backgrounds are of the dataset backgrounds, not of {self.dataset}")
        if self.adversarial and self.target_resolution is None:
            raise UserError("adversarial backgrounds need target_resolution, to which images and masks are resized")
        if self.images_per_class > 1 and (self.train_loader == "group" or self.uniform_over_groups):
            raise UserError("images_per_class needs train_loader standard and no uniform_over_groups")
        if self.batch_size % self.images_per_class:
            raise UserError(
                f"batch_size {self.batch_size} is not a multiple of images_per_class {self.images_per_class}"
            )

    @property
    def trains_with_groups(self) -> bool:
        """Whether training uses the labels of `groupby_fields`, in the loss or in sampling."""
        return self.use_domains or bool(self.uniform_over_groups) or self.train_loader == "group"


FIELDS = {f.name: f for f in dataclasses.fields(Config)}


def defaults_folder() -> Path:
    """The folder hparams/wilds, found without importing cim_dg.hparams."""
    spec = importlib.util.find_spec("cim_dg.hparams")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent / "wilds"


@functools.cache
def defaults_model() -> Any:
    """The schema of a file of defaults: any options, the defaults that it includes, and what a search draws."""
    from typing_extensions import TypedDict

    from cim_dg.wilds.search import Search

    make_type: Any = TypedDict  # the type checker cannot follow fields that are not literal
    fields = {"include": str, "search": Search, **get_type_hints(Config, include_extras=True)}
    return make_type("Defaults", fields, total=False)


def read_defaults(name: str, included_by: tuple[str, ...] = ()) -> dict[str, Any]:
    """The values of hparams/wilds/NAME.yaml, or of the user's file `name` if that ends in .yaml; `search` is its space.

    Raises:
        UserError: there is no such file, it includes itself, or a name or value in it is not accepted.
    """
    from cim_dg.runtime.schema import load_yaml

    folder = defaults_folder()
    path = Path(name) if name.endswith((".yaml", ".yml")) else folder / f"{name}.yaml"
    known = sorted(p.stem for p in folder.glob("*.yaml") if p.stem != "leaderboard")
    if path.parent == folder and path.stem not in known:
        names = f"{', '.join(known)}{suggestion(name, known)}"
        raise UserError(f"no defaults named {name!r}; accepted is a .yaml file or one of {names}")
    if name in included_by:
        raise UserError(f"{path} includes itself: {' includes '.join((*included_by, name))}")
    values = load_yaml(path, defaults_model())
    included = read_defaults(values.pop("include"), (*included_by, name)) if "include" in values else {}
    return {**included, **values}


def make_config(options: Mapping[str, Any], defaults: str | None = None) -> Config:
    """The run with the options `options`; missing options have the dataset's defaults, or those of `hparams_seed`.

    Args:
        options: options by name; None counts as missing.
        defaults: the argument of `read_defaults`; by default the dataset's name.

    Raises:
        UserError: a value is missing or not accepted.
    """
    dataset = str(options.get("dataset"))
    if dataset not in datasets():
        known = f"{', '.join(datasets())}{suggestion(dataset, datasets())}"
        raise UserError(f"dataset is {options.get('dataset')!r}; accepted is one of {known}")
    values = dataset_defaults(dataset, defaults)
    search = values.pop("search", {})
    algorithm, hparams_seed, seed = (options.get(name) for name in ("algorithm", "hparams_seed", "seed"))
    # Values of other types are refused below.
    if isinstance(algorithm, str) and isinstance(hparams_seed, int) and hparams_seed > 0 and isinstance(seed or 0, int):
        from cim_dg.wilds.search import draw

        if not search:
            raise UserError(f"{defaults or dataset} has no `search` to draw from; accepted is hparams_seed 0")
        drawn, hparams = draw(search, algorithm, hparams_seed, seed or 0)
        values |= {**drawn, "hparams": hparams}
    for owner in ("model", "optimizer", "scheduler"):
        # Default arguments of one optimiser do not fit another. All torchvision models have `pretrained`.
        other = options.get(owner) not in (None, values.get(owner))
        if other and (owner != "model" or options[owner] not in IMAGENET_MODELS):
            values.pop(f"{owner}_kwargs", None)
    for name, value in options.items():
        if value is not None:
            both = isinstance(value, dict) and isinstance(values.get(name), dict)
            values[name] = {**values[name], **value} if both else value
    if values.get("algorithm") == "GroupDRO" and values.get("uniform_over_groups") is None:
        values["uniform_over_groups"] = True  # as in run_expt.py
    missing = [f.name for f in FIELDS.values() if f.default is f.default_factory is dataclasses.MISSING]
    missing = [name for name in missing if name not in values]
    if missing:
        raise UserError(f"{missing[0]} is not given, neither as an option nor in the defaults")
    return validated(Config, values, "the options")


def datasets() -> tuple[str, ...]:
    """Every dataset that the runner accepts: WILDS', the Backgrounds Challenge, and the user's registered ones."""
    return (*DATASETS, *own.names())


def dataset_defaults(dataset: str, defaults: str | None) -> dict[str, Any]:
    """The named defaults of a dataset, by default its own; with the groups of a registered dataset."""
    if dataset in DATASETS:
        return read_defaults(defaults or dataset)
    groups = own.read(dataset).groups
    return read_defaults(defaults or "own") | ({"report_groups": [*groups, "y"]} if groups else {})
