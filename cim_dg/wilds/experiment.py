"""One training run, from its configuration to its record."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from cim_dg.algorithms import methods
from cim_dg.errors import LeftToAnother, RunError, UserError
from cim_dg.runtime import locks
from cim_dg.runtime.allocator import keep_freed_memory
from cim_dg.runtime.devices import choose_device
from cim_dg.runtime.files import remove_partial
from cim_dg.runtime.seeding import seed_everything
from cim_dg.wilds.adapter import check_domains
from cim_dg.wilds.config import FIELDS, Config
from cim_dg.wilds.data import load_data
from cim_dg.wilds.models import check_takes, make_featurizer
from cim_dg.wilds.record import RunFolder, provenance
from cim_dg.wilds.training import Trainer
from cim_dg.wilds.transforms import pixel_space


def train(config: Config, keep_models: bool = True) -> dict[str, Any]:
    """Run `config`; returns the final content of its run.json.

    Args:
        config: what to run.
        keep_models: whether to keep the checkpoints when the run is done.

    Raises:
        UserError: wrong input.
        RunError: the loss is not finite, or the device ran out of memory.
        LeftToAnother: another process is running in the folder.
    """
    device = choose_device(config.device)
    sees_domains = check_domains(config.algorithm, config.hparams, config.use_domains)
    folder = RunFolder(config.log_dir, config.dataset, config.seed)
    if folder.record.is_dir():
        raise UserError(f"{folder.record} is a folder; accepted is the record of a run, or none")
    if folder.record.exists() and not config.resume:
        raise UserError(
            f"log_dir {config.log_dir} holds a run already; add --resume to go on with it, or choose another"
        )
    keep_freed_memory()
    seed_everything(config.seed)
    data = load_data(config, pin_memory=device.type == "cuda")
    featurizer, weights = make_featurizer(
        config.model, config.model_kwargs, config.pretrained_model_path, standardize=config.transform == "rxrx1"
    )
    check_takes(featurizer, data.splits["val"][0][0], config.model)
    method = methods()[config.algorithm](
        featurizer,
        lambda n_features: torch.nn.Linear(n_features, data.num_classes),
        pixel_space(config.transform),
        data.num_classes,
        data.domains.n_groups,
        config.hparams,
    )
    if sees_domains:
        method.see_domain_counts(data.domain_counts())
    record = {
        "harness": "wilds",
        "runner": "cim-dg wilds train",
        "dataset": config.dataset,
        "algorithm": config.algorithm,
        "seed": config.seed,
        "selection": config.selection,
        "used_domains": sees_domains or config.trains_with_groups,
        "hparams": dict(method.hparams),
        "config": {name: getattr(config, name) for name in FIELDS if name != "hparams"},
        "weights": weights,
        "model": {
            "classes": data.class_names(),
            "num_domains": data.domains.n_groups,
            "original_resolution": data.dataset.original_resolution,
        },
        "device": _describe(device),
        **provenance(config.dataset, config.root_dir),
    }
    with folder.removed_if_refused():
        folder.create()
        claimed = locks.claim(folder.path)
        if claimed is None:
            raise LeftToAnother(f"{folder.path}: another process is running this job, to which it is left")
        with claimed, readable_errors():
            remove_partial(folder.path)
            trainer = Trainer(config, data, method, sees_domains, folder, record, device)
            trainer.fit()
            if not (keep_models or trainer.pauses):
                folder.remove_models()
    folder.log(
        f"\nSelected epoch {trainer.progress.best_epoch} by {config.selection} of validation; see {folder.record}"
    )
    return trainer.full_record()


@contextlib.contextmanager
def readable_errors() -> Iterator[None]:
    """Shorten the long errors of a loader's worker process and of the GPU's allocator to one sentence."""
    try:
        yield
    except UserError as error:
        last = str(error).strip().splitlines()[-1]
        raise UserError(last.removeprefix("cim_dg.errors.UserError: ")) from None
    except torch.cuda.OutOfMemoryError as error:
        raise RunError(f"out of memory, try a smaller batch_size: {str(error).splitlines()[0]}") from None


def _describe(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
