"""Trained models from the files of runs of either harness, and from the files that `cim-dg export` writes.

A model is a description (plain JSON) and a state_dict. `read` reads both from a file or folder without executing code
from it; `build` builds the network from them. The kinds of files are

- model.pkl of `domainbed.scripts.train`, of the real DomainBed, the stand-in or a fork of that form,
- DATASET_seed:N_epoch:best_model.pth of `cim-dg wilds train`, with the run.json beside it,
- a folder with model.json and model.safetensors of `cim-dg export`.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cim_dg.errors import RunError, UserError

if TYPE_CHECKING:  # every call of the command line imports modules that import this one
    import torch
    from PIL.Image import Image

    from cim_dg.algorithms import Algorithm

DESCRIPTION, WEIGHTS = "model.json", "model.safetensors"
DOMAINBED, WILDS = "domainbed", "wilds"
PRETRAINED_SIZE = (224, 224)  # the size of images for which the harness has featurizers with weights
CHECKPOINT_KEYS = ("args", "model_input_shape", "model_num_classes", "model_num_domains", "model_hparams", "model_dict")
BEFORE = {"cim_mask_side": None}
"""Values of hyper-parameters that older models do not have and whose default is not what these were trained with."""
_FORMAT = 1
_MOST = 1_000_000  # classes, domains, or pixels of a side


@dataclass(frozen=True)
class Stored:
    """A model as it is stored.

    Attributes:
        source: the path that it was read from, for messages.
        about: the data to build it, in JSON's types; `kind` is DOMAINBED or WILDS.
        state: its state_dict, on the CPU.
    """

    source: Path
    about: dict[str, Any]
    state: dict[str, torch.Tensor]


@dataclass(frozen=True)
class Model:
    """A trained model, in evaluation mode.

    Attributes:
        network: the module whose `predict(x)` maps (N, C, H, W), as its harness feeds it, to logits (N, K).
        classes: K names in the order of the logits.
        channels: C.
        prepare: an image in RGB or L, by `channels`, -> (C, H, W) as the harness feeds it in evaluation.
        method: the method of cim-dg inside; None if the algorithm is the harness' own.
        bf16: whether `predict` is to be called under autocast to bfloat16; DomainBed's networks do that themselves.
    """

    network: torch.nn.Module
    classes: list[str]
    channels: int
    prepare: Callable[[Image], torch.Tensor]
    method: Algorithm | None
    bf16: bool = False


def read(path: Path) -> Stored:
    """The model that `path` holds; see the module for the kinds.

    Raises:
        UserError: there is no such file, or it is of another kind.
    """
    if path.is_dir():
        return _read_exported(path)
    content = _load(path)
    if all(key in content for key in CHECKPOINT_KEYS):
        return _of_domainbed(content, path)
    if isinstance(content.get("algorithm"), dict) and (path.parent / "run.json").is_file():
        return _of_wilds(content["algorithm"], path)
    raise UserError(
        f"{path} is no model.pkl of domainbed.scripts.train (that has {', '.join(CHECKPOINT_KEYS)}), nor a model.pth "
        "of cim-dg wilds train with its run.json beside it"
    )


def build(stored: Stored) -> Model:
    """The network with its weights, on the CPU.

    Raises:
        UserError: the state does not fit the described network.
        RunError: the harness cannot build it here.
    """
    import torch

    for name, value in stored.state.items():
        if not isinstance(value, torch.Tensor) or not bool(torch.isfinite(value).all()):
            raise UserError(f"{stored.source} holds weights that are not finite numbers (the first is {name})")
    try:
        model = _build_domainbed(stored) if stored.about["kind"] == DOMAINBED else _build_wilds(stored)
    except (UserError, RunError):
        raise
    except Exception as error:  # the harness' code and its downloads can raise anything
        raise RunError(
            f"{stored.about.get('algorithm')} of {stored.source} cannot be built here: {type(error).__name__}: {error}"
        ) from None
    try:
        model.network.load_state_dict(stored.state)
    except (RuntimeError, TypeError, KeyError, AttributeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[-1].strip()
        raise UserError(
            f"{stored.source} does not fit {stored.about['algorithm']} as it is built here: {reason}"
        ) from None
    model.network.eval()
    return model


def _load(path: Path) -> dict[str, Any]:
    from cim_dg.runtime import checkpoint

    if path.exists() and not path.is_file():  # a device may have no end
        raise UserError(f"the checkpoint {path} is not a file")
    try:
        content = checkpoint.decode_safely(path.read_bytes())
    except OSError as error:
        raise UserError(f"the checkpoint {path} cannot be read: {error.strerror}") from None
    except UserError as error:
        raise UserError(f"{path} is no checkpoint that torch.load takes as safe ({error}); it was not loaded") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}, not the dict of a checkpoint")
    return content


def _of_domainbed(content: Mapping[str, Any], path: Path) -> Stored:
    if wrong := _wrong_part(content):
        raise UserError(f"{path} is no model.pkl of domainbed.scripts.train: its {wrong} is of another form")
    args = {name: value for name, value in content["args"].items() if _is_plain(value)}
    about = {
        "kind": DOMAINBED,
        "algorithm": args.get("algorithm"),
        "dataset": args.get("dataset"),
        "input_shape": list(content["model_input_shape"]),
        "num_classes": content["model_num_classes"],
        "num_domains": content["model_num_domains"],
        "hparams": {name: value for name, value in content["model_hparams"].items() if _is_plain(value)},
        "args": args,
    }
    about["classes"] = _class_folders(args, about["num_classes"])
    return Stored(path, about, dict(content["model_dict"]))


def _wrong_part(content: Mapping[str, Any]) -> str | None:
    """The first entry of a model.pkl that is not what DomainBed writes; None if all are."""
    for name in ("args", "model_hparams", "model_dict"):
        if not isinstance(content[name], dict):
            return name
    for name in ("model_num_classes", "model_num_domains"):
        if type(content[name]) is not int or not 1 <= content[name] <= _MOST:
            return name
    shape = content["model_input_shape"]
    is_shape = isinstance(shape, (tuple, list)) and len(shape) == 3
    return None if is_shape and all(type(n) is int and 1 <= n <= _MOST for n in shape) else "model_input_shape"


def _of_wilds(state: dict[str, torch.Tensor], path: Path) -> Stored:
    file = path.parent / "run.json"
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        config, model = record["config"], record["model"]
        about = {
            "kind": WILDS,
            "algorithm": record["algorithm"],
            "dataset": record["dataset"],
            "classes": [name.strip() for name in model["classes"]],
            "num_domains": model["num_domains"],
            "original_resolution": model["original_resolution"],
            "hparams": record["hparams"],
            "config": {
                name: config[name]
                for name in ("model", "model_kwargs", "transform", "target_resolution", "resize_scale", "bf16", "seed")
            },
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UserError(
            f"{file} does not say how the model is built; runs of `cim-dg wilds train` of this version do, those of "
            "run_expt.py do not"
        ) from None
    return Stored(path, about, state)


def _read_exported(folder: Path) -> Stored:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        about = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        if about["format"] != _FORMAT or about["kind"] not in (DOMAINBED, WILDS):
            raise UserError(f"{folder / DESCRIPTION} is of format {about['format']!r}; accepted is {_FORMAT}")
        return Stored(folder, {"algorithm": about["algorithm"], **about}, load_file(folder / WEIGHTS))
    except (OSError, ValueError, KeyError, TypeError, RecursionError, SafetensorError) as error:
        raise UserError(f"{folder} is no model of `cim-dg export`: {' '.join(str(error).split())}") from None


def description(stored: Stored) -> dict[str, Any]:
    """The content of model.json for the model, which `read` reads."""
    return {"format": _FORMAT, **stored.about}


def _is_plain(value: object) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        return False
    return True


def _class_folders(args: Mapping[str, Any], count: int) -> list[str]:
    """The names of the classes: the class folders of the training data if they exist, else the classes' numbers."""
    from cim_dg.data import own

    numbers = [str(number) for number in range(count)]
    name, data_dir = str(args.get("dataset")), str(args.get("data_dir"))
    root = Path(own.read(name).folder) if name in own.names() else _image_folder(name, data_dir)
    if root is None or not root.is_dir():
        return numbers
    classes = next((sorted(p.name for p in domain.iterdir() if p.is_dir()) for domain in _folders(root)), [])
    return classes if len(classes) == count else numbers


def _image_folder(dataset: str, data_dir: str) -> Path | None:
    places = (dataset, dataset.lower(), {"OfficeHome": "office_home", "TerraIncognita": "terra_incognita"}.get(dataset))
    return next((Path(data_dir, place) for place in places if place and Path(data_dir, place).is_dir()), None)


def _folders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir())


def _build_domainbed(stored: Stored) -> Model:
    from cim_dg import autoload
    from cim_dg import hparams as spaces
    from cim_dg.nn.pixels import PixelSpace
    from cim_dg.nn.working_size import FEATURIZER_SIDE

    about = stored.about
    name, shape = about["algorithm"], tuple(about["input_shape"])
    autoload.install()
    algorithms = importlib.import_module("domainbed.algorithms")
    registry = importlib.import_module("domainbed.hparams_registry")
    hparams = _as_trained(name, about["hparams"])
    size = (hparams.get(FEATURIZER_SIDE) or shape[1],) * 2
    if "weights" in getattr(registry, "OPTIONAL", ()) and size == shape[1:] == PRETRAINED_SIZE:
        hparams["weights"] = _without_download(hparams.get("weights"))
    built = algorithms.get_algorithm_class(name)(shape, about["num_classes"], about["num_domains"], hparams)
    # The harness' own algorithms do not have this hyper-parameter, so the dataset determines it.
    default = spaces.space("common", about["dataset"])["pixel_space"].default
    space = PixelSpace.of(about["hparams"].get("pixel_space", default), shape[0])
    return Model(
        network=built,
        classes=about["classes"],
        channels=shape[0],
        prepare=lambda image: space.from_pixels(_resized(image, shape[1:])[None])[0],
        method=getattr(built, "method", None) if name in _own_methods() else None,
    )


def _resized(image: Image, size: Sequence[int]) -> torch.Tensor:
    """The image with sides `size`, (C, H, W) in [0, 1]."""
    from torchvision import transforms  # imported here: it takes seconds, and not every use of a model has image files

    return transforms.Compose([transforms.Resize(size), transforms.ToTensor()])(image)


def _build_wilds(stored: Stored) -> Model:
    import torch

    from cim_dg.wilds.models import make_featurizer
    from cim_dg.wilds.transforms import make_transform, pixel_space

    about, config = stored.about, stored.about["config"]
    classes = about["classes"]
    # The weights come from the file, so none are downloaded.
    kwargs = {name: value for name, value in config["model_kwargs"].items() if name != "pretrained"}
    kwargs |= {} if config["model"] == "efficientnet_lite0" else {"pretrained": False}
    featurizer, _ = make_featurizer(config["model"], kwargs, standardize=config["transform"] == "rxrx1")
    methods = _own_methods()
    if about["algorithm"] not in methods:
        raise UserError(f"{stored.source} is of {about['algorithm']!r}; accepted are {', '.join(sorted(methods))}")
    method = methods[about["algorithm"]](
        featurizer,
        lambda n_features: torch.nn.Linear(n_features, len(classes)),
        pixel_space(config["transform"]),
        len(classes),
        about["num_domains"],
        _as_trained(about["algorithm"], about["hparams"]),
    )
    transform = make_transform(
        config["transform"],
        about["original_resolution"],
        config["target_resolution"],
        config["resize_scale"],
        training=False,
    )
    bf16 = bool(config["bf16"])
    return Model(network=method, classes=classes, channels=3, prepare=transform, method=method, bf16=bf16)


def _as_trained(algorithm: str, hparams: Mapping[str, Any]) -> dict[str, Any]:
    """The hyper-parameters of a stored model, which are complete but for those that are newer."""
    from cim_dg import hparams as spaces

    known = spaces.space(algorithm) if algorithm in _own_methods() else {}
    return {name: value for name, value in BEFORE.items() if name in known} | dict(hparams)


def _own_methods() -> dict[str, Any]:
    from cim_dg.algorithms import methods

    return methods()


def _without_download(weights: object) -> object:
    """The stand-in's hyper-parameter `weights`, without a file, because the checkpoint replaces it."""
    from cim_dg.nn import efficientnet

    return weights if weights == efficientnet.NAME else "random"  # efficientnet_lite0 is another architecture
