"""What a run of `cim-dg wilds train` is told: run_expt.py's options and ours, with the defaults of each dataset."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from cim_dg.data import own
from cim_dg.errors import UserError

OF_WILDS = ("waterbirds", "celebA", "camelyon17", "iwildcam", "fmow", "rxrx1")
DATASETS = (*OF_WILDS, "backgrounds")
SELECTIONS = ("average", "worst-class", "worst-group")
IMAGENET_MODELS = ("resnet18", "resnet34", "resnet50", "densenet121")
MODELS = (*IMAGENET_MODELS, "efficientnet_lite0", "small-cnn")
TRANSFORMS = ("image_base", "image_resize", "image_resize_and_center_crop", "rxrx1", "imagenet")
OPTIMIZERS = ("SGD", "Adam", "AdamW")
SCHEDULERS = (
    "linear_schedule_with_warmup",
    "cosine_schedule_with_warmup",
    "ReduceLROnPlateau",
    "StepLR",
    "MultiStepLR",
)


@dataclass(frozen=True)
class Config:
    """One training run. Names and meanings are those of WILDS' run_expt.py, but for those marked as ours."""

    dataset: str
    algorithm: str
    root_dir: str
    model: str
    transform: str
    optimizer: str
    lr: float
    weight_decay: float
    batch_size: int
    n_epochs: int
    groupby_fields: list[str]
    log_dir: str = "logs"
    seed: int = 0
    split_scheme: str = "official"
    dataset_kwargs: dict[str, Any] = field(default_factory=dict)
    version: str | None = None
    download: bool = False
    frac: float = 1.0
    loader_kwargs: dict[str, Any] = field(default_factory=dict)
    train_loader: str = "standard"
    uniform_over_groups: bool | None = None
    distinct_groups: bool = True
    n_groups_per_batch: int = 4
    model_kwargs: dict[str, Any] = field(default_factory=dict)
    pretrained_model_path: str | None = None
    target_resolution: list[int] | None = None
    resize_scale: float | None = None
    optimizer_kwargs: dict[str, Any] = field(default_factory=dict)
    scheduler: str | None = None
    scheduler_kwargs: dict[str, Any] = field(default_factory=dict)
    scheduler_metric_name: str | None = None
    max_grad_norm: float | None = None
    eval_splits: list[str] | None = None
    device: str = "auto"
    log_every: int = 50
    progress_bar: bool = False
    resume: bool = False
    # Ours.
    hparams: dict[str, Any] = field(default_factory=dict)
    bf16: bool = False
    selection: str = "average"
    use_domains: bool = False
    images_per_class: int = 1
    report_groups: list[str] | None = None
    ignored_groups: list[str] = field(default_factory=list)
    adjust_average: bool = False
    adversarial: bool = False

    def __post_init__(self) -> None:
        _among("dataset", self.dataset, datasets())
        _among("model", self.model, MODELS)
        _among("transform", self.transform, TRANSFORMS)
        _among("optimizer", self.optimizer, OPTIMIZERS)
        _among("scheduler", self.scheduler, (None, *SCHEDULERS))
        _among("train_loader", self.train_loader, ("standard", "group"))
        _among("selection", self.selection, SELECTIONS)
        for name in ("batch_size", "n_epochs", "log_every", "images_per_class", "n_groups_per_batch"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; accepted is a whole number of at least 1")
        if not 0 < self.frac <= 1:
            raise UserError(f"frac is {self.frac}; accepted is a number above 0 and at most 1")
        for name in ("lr", "weight_decay"):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or not 0 <= value < float("inf"):
                raise UserError(f"{name} is {value!r}; accepted is a number of at least 0")
        if self.selection == "worst-group" and not self.report_groups:
            raise UserError(f"{self.dataset} has no groups to select by; accepted is selection average or worst-class")
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
        """Whether training sees the labels of `groupby_fields`, in its loss or in its sampling."""
        return self.use_domains or bool(self.uniform_over_groups) or self.train_loader == "group"


FIELDS = {f.name: f for f in dataclasses.fields(Config)}


def defaults_folder() -> Path:
    """hparams/wilds, wherever that is; found without importing what hparams/ needs."""
    spec = importlib.util.find_spec("cim_dg.hparams")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent / "wilds"


def read_defaults(name: str) -> dict[str, Any]:
    """The values of hparams/wilds/NAME.yaml, or of a YAML file of the user's if `name` ends in .yaml.

    Raises:
        UserError: there is no such file, it is not YAML, or it has a name that is no option.
    """
    own = defaults_folder() / f"{name}.yaml"
    path = Path(name) if name.endswith((".yaml", ".yml")) else own
    if path == own and not path.is_file():
        known = sorted(p.stem for p in own.parent.glob("*.yaml") if p.stem != "leaderboard")
        raise UserError(f"no defaults named {name!r}; accepted is a .yaml file or one of {', '.join(known)}")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path} must map the names of options to their values")
    included = read_defaults(values.pop("include")) if "include" in values else {}
    unknown = sorted(set(values) - set(FIELDS))
    if unknown:
        raise UserError(f"{path} has {unknown[0]!r}, which is not an option of wilds train")
    return included | values


def make_config(given: Mapping[str, Any], defaults: str | None = None) -> Config:
    """The run that `given` asks for; what it leaves out is taken from the defaults of the dataset.

    Args:
        given: options by name; those that are None count as left out.
        defaults: the name or file of `read_defaults`; by default that of the dataset.

    Raises:
        UserError: a value that is not accepted, or one that is missing.
    """
    _among("dataset", given.get("dataset"), datasets())
    values = _dataset_defaults(str(given["dataset"]), defaults)
    for owner in ("model", "optimizer", "scheduler"):
        # Default arguments of one optimiser are none of another; torchvision's models all know `pretrained`.
        other = given.get(owner) not in (None, values.get(owner))
        if other and (owner != "model" or given[owner] not in IMAGENET_MODELS):
            values.pop(f"{owner}_kwargs", None)
    for name, value in given.items():
        if value is not None:
            values[name] = {**values.get(name, {}), **value} if isinstance(value, dict) else value
    if values.get("algorithm") == "GroupDRO" and values.get("uniform_over_groups") is None:
        values["uniform_over_groups"] = True  # as in run_expt.py
    missing = [f.name for f in FIELDS.values() if f.default is f.default_factory is dataclasses.MISSING]
    missing = [name for name in missing if name not in values]
    if missing:
        raise UserError(f"{missing[0]} is not given, neither as an option nor in the defaults")
    return Config(**values)


def datasets() -> tuple[str, ...]:
    """Every dataset that the runner takes: of WILDS, the Backgrounds Challenge, and registered ones of the user's."""
    return (*DATASETS, *own.names())


def _dataset_defaults(dataset: str, defaults: str | None) -> dict[str, Any]:
    if dataset in DATASETS:
        return read_defaults(defaults or dataset)
    groups = own.read(dataset).groups
    return read_defaults(defaults or "own") | ({"report_groups": [*groups, "y"]} if groups else {})


def _among(name: str, value: Any, accepted: tuple[Any, ...]) -> None:
    if value not in accepted:
        raise UserError(f"{name} is {value!r}; accepted is one of {', '.join(str(a) for a in accepted)}")
