"""Our methods as algorithms of WILDS' examples harness. Imported only inside a run_expt.py (see `plugin`)."""

from __future__ import annotations

import argparse
import math
from importlib import import_module
from types import ModuleType
from typing import Any

from torch import Tensor, bincount, nn

from cim_dg import hparams as spaces
from cim_dg.algorithms import Algorithm, Batch, methods
from cim_dg.errors import UserError
from cim_dg.harness.step import TrainingStep, with_parts
from cim_dg.wilds.adapter import ALIASES, add_hparam_options, check_domains, read_hparam_options
from cim_dg.wilds.config import OF_WILDS
from cim_dg.wilds.models import Featurizer
from cim_dg.wilds.our_methods import our_methods
from cim_dg.wilds.record import RunFolder, provenance
from cim_dg.wilds.transforms import pixel_space

IMAGES = (*OF_WILDS, "domainnet")  # WILDS' image classification datasets
# run_expt.py's selection metrics and our names for them; other metrics keep their names.
SELECTIONS = {
    "acc_wg": "worst-group",
    "acc_worst_region": "worst-group",
    "acc_avg": "average",
    "F1-macro_all": "macro-f1",
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of our methods to run_expt.py's parser."""
    add_hparam_options(parser)
    parser.add_argument("--use_domains", action="store_true", help="let the method see the groups of --groupby_fields")


def check_options(config: argparse.Namespace) -> None:
    """Read our options into `config.hparams`, early enough for an error to count as one of the command line.

    Raises:
        UserError: an option of another method is given, a value is not accepted, or the dataset has no images.
    """
    if config.algorithm in our_methods():
        config.hparams = spaces.complete(config.algorithm, read_hparam_options(config, config.algorithm))
        check_domains(config.algorithm, config.hparams, config.use_domains)
        config.bf16 = bool(config.bf16)
        if config.dataset not in IMAGES or config.unlabeled_split is not None:
            raise UserError(f"{config.algorithm} takes labelled images, of {', '.join(IMAGES)}")
        vars(config).update(config.hparams)  # so that the harness' log shows them
        return
    names = [entry for name in our_methods() for entry in spaces.space(name) if getattr(config, entry) is not None]
    names += [name for name in ("use_domains", "bf16") if getattr(config, name)]
    if names:
        raise UserError(f"--{names[0]} is not an option of {config.algorithm}")
    config.bf16 = False


class Model(nn.Module):
    """A method as the harness trains it: one module that gives logits and terms in one pass.

    Shape:
        (N, C, H, W), (N,), (N,) or None -> (N, K), {name: (1,)}; one value per replica under DataParallel.
    """

    def __init__(self, method: Algorithm, bf16: bool) -> None:
        super().__init__()
        self.method = method
        self.step = TrainingStep(method, bf16)

    def forward(self, x: Tensor, y: Tensor, domain: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits, and the loss and the other terms, of a batch."""
        with self.step.autocast(x):
            x = self.step.images(x)
            output = self.method(Batch(x, y, domain))
            averaged = not self.training and self.method.averages
            logits = self.method.predict(x) if averaged else output.logits
        return logits.float(), {name: term.float().view(1) for name, term in output.terms.items()}


def initialize(config: Any, datasets: Any, grouper: Any) -> Any:
    """The harness' algorithm object for `config.algorithm`, a method of ours."""
    # By name: only run_expt.py's interpreter has these modules of the harness.
    initializer = import_module("algorithms.initializer")
    base = import_module("algorithms.single_model_algorithm")
    loss = import_module("losses").initialize_loss(config.loss_function, config)
    train = datasets["train"]
    d_out = initializer.infer_d_out(train["dataset"], config)
    models = import_module("models.initializer")
    featurizer, classifier = models.initialize_model(config, d_out, is_featurizer=True)
    method = methods()[config.algorithm](
        Featurizer(featurizer, featurizer.d_out, standardize=config.transform == "rxrx1"),
        _classifiers(classifier, featurizer.d_out, d_out),
        pixel_space(config.transform),
        d_out,
        grouper.n_groups,
        config.hparams,
    )
    if check_domains(config.algorithm, config.hparams, config.use_domains):
        groups = grouper.metadata_to_group(train["dataset"].metadata_array)
        method.see_domain_counts(bincount(groups, minlength=grouper.n_groups))
    steps = math.ceil(len(train["loader"]) / config.gradient_accumulation_steps) * config.n_epochs
    return _algorithm_class(base)(
        config,
        Model(method, config.bf16),
        grouper,
        loss,
        initializer.algo_log_metrics[config.algo_log_metric],
        steps,
    )


def _classifiers(first: nn.Module, n_features: int, d_out: int) -> Any:
    """The factory of classifiers: first the harness' own, which may hold pretrained weights, then new ones."""
    own = [first]

    def make(n: int) -> nn.Module:
        return own.pop() if n == n_features and own else nn.Linear(n, d_out)

    return make


def _algorithm_class(base: ModuleType) -> type:
    """The harness' SingleModelAlgorithm with our model's forward pass."""
    parent: Any = base.SingleModelAlgorithm

    class MethodAlgorithm(parent):
        def __init__(self, config: Any, model: Model, grouper: Any, loss: Any, metric: Any, n_steps: int) -> None:
            # Where there is an optimiser already, the harness takes it.
            self.optimizer = with_parts(base.initialize_optimizer(config, model), model.method)
            super().__init__(config, model, grouper, loss, metric, n_steps)
            self.method = [model.method]  # in a list: it is part of `model` already
            self.sees_domains = check_domains(config.algorithm, config.hparams, config.use_domains)
            self.training_step = model.step

        def process_batch(self, batch: Any, unlabeled_batch: Any = None) -> dict[str, Any]:
            x, y, metadata = batch
            x, y = x.to(self.device), y.to(self.device)
            g = self.grouper.metadata_to_group(metadata).to(self.device)
            logits, terms = self.model(x, y, g if self.sees_domains else None)
            terms = {name: term.mean() for name, term in terms.items()}
            self.logged_fields = ["objective", *(name for name in terms if name != "loss")]
            return {"g": g, "y_true": y, "y_pred": logits, "metadata": metadata, **terms}

        def objective(self, results: dict[str, Any]) -> Tensor:
            return results["loss"]

        def _update(self, results: dict[str, Any], should_step: bool = False) -> None:
            super()._update(results, should_step=should_step)
            terms = {"loss": results["objective"]} | {k: results[k] for k in ("positives",) if k in results}
            self.training_step.check({name: float(term) for name, term in terms.items()}, f"batch {self.batch_idx}")
            if should_step:
                self.method[0].after_step()

    return MethodAlgorithm


def write_record(config: Any, algorithm: Any) -> None:
    """Write a run.json that describes the run to the log folder. The best epoch is in val_eval.csv."""
    if config.eval_only:
        return
    method = getattr(algorithm, "method", None)
    sees_groups = bool(getattr(algorithm, "sees_domains", False)) or config.algorithm == "groupDRO"
    RunFolder(config.log_dir, config.dataset, config.seed).write_record(
        {
            "harness": "wilds",
            "runner": "run_expt.py",
            "dataset": config.dataset,
            "algorithm": ALIASES.get(config.algorithm, config.algorithm),
            "seed": config.seed,
            "selection": SELECTIONS.get(config.val_metric, config.val_metric),
            "val_metric": config.val_metric,
            "selected_epoch": None,
            "used_domains": sees_groups or config.uniform_over_groups or config.train_loader == "group",
            "hparams": dict(method[0].hparams) if method else {},
            "config": {
                k: v for k, v in vars(config).items() if isinstance(v, (str, int, float, bool, list, dict, type(None)))
            },
            "device": str(config.device),
            **provenance(config.dataset, config.root_dir),
        }
    )
