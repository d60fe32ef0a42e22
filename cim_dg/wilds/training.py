"""The training loop: epochs, evaluation, selection, and resuming a killed run."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from cim_dg.algorithms import Algorithm, Batch
from cim_dg.backgrounds.adversarial import Challenge
from cim_dg.errors import UserError
from cim_dg.harness.step import TrainingStep, with_parts
from cim_dg.results.outputs import Outputs
from cim_dg.runtime import checkpoint, halving, settings
from cim_dg.wilds.config import Config
from cim_dg.wilds.data import Data, batches_after
from cim_dg.wilds.evaluation import Report, format_report, make_report
from cim_dg.wilds.optimisers import Schedule, make_optimizer
from cim_dg.wilds.record import RunFolder

# Options that may change when a run is resumed: paths, device, output, length, the final challenge, and the seed of
# hyper-parameters that are compared themselves.
FREE = (
    *("root_dir", "log_dir", "download", "device", "log_every", "progress_bar", "resume", "loader_kwargs", "n_epochs"),
    *("adversarial", "hparams_seed"),
)


@dataclass
class Progress:
    """How far a run is.

    Attributes:
        epochs: the number of completed epochs.
        best_value: the selection figure of the best epoch so far, None before the first.
        best_epoch: that epoch, counted from 0; the first one if several are equal.
        results: the reports of the best epoch by split.
        tables: the rows of the CSV files by name.
        seconds: the time so far, in all attempts.
    """

    epochs: int = 0
    best_value: float | None = None
    best_epoch: int | None = None
    results: dict[str, Any] = field(default_factory=dict)
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    seconds: float = 0.0


class Trainer:
    """One run.

    Args:
        config: what to run.
        data: the dataset.
        method: the algorithm, on any device.
        sees_domains: whether the method gets the domains of `config.groupby_fields`.
        folder: the run's folder.
        record: the content of run.json besides the results.
        device: the device of the training.
    """

    def __init__(
        self,
        config: Config,
        data: Data,
        method: Algorithm,
        sees_domains: bool,
        folder: RunFolder,
        record: dict[str, Any],
        device: torch.device,
    ) -> None:
        self.config, self.data, self.sees_domains = config, data, sees_domains
        self.folder, self.record, self.device = folder, record, device
        self.method = method.to(device)
        self.optimizer = with_parts(make_optimizer(config, self.method.parameters()), self.method)
        self.schedule = Schedule(config, self.optimizer, len(data.loaders["train"]) * config.n_epochs)
        self.step = TrainingStep(self.method, config.bf16, config.max_grad_norm)
        self.shares = data.train_shares() if config.adjust_average else None
        self.progress = Progress()
        self._keeps_logits = settings.get("CIM_DG_KEEP_LOGITS")
        self._logits: dict[str, list[Tensor]] = {}
        self.interval = checkpoint.Interval()
        self._clock = time.monotonic()

    def fit(self) -> Progress:
        """Train to the last epoch, from the start or the folder's last checkpoint, and run the challenge.

        A run of a search by halving pauses after the epoch that `halving.pause` says.

        Raises:
            RunError: a term of the loss is not finite.
            UserError: the checkpoint belongs to another run.
        """
        partial = self._resume() if self.config.resume else None
        self.folder.write_record(self.full_record())
        if not self.progress.epochs:
            halving.start_over(self.folder.path)
        for epoch in range(self.progress.epochs, halving.pause(self.config.n_epochs, 1) or self.config.n_epochs):
            self.folder.log(f"\nEpoch [{epoch}]:")
            outcomes = {"train": self.train_epoch(epoch, partial)} | self.evaluate()
            partial = None
            reports = {split: self._report(*outcome) for split, outcome in outcomes.items()}
            for split, report in reports.items():
                self.folder.log(format_report(split, report))
            self._finish_epoch(epoch, outcomes, reports)
        halving.reached(self.folder.path)
        if self.pauses:
            return self.progress
        if self.data.challenge is not None:
            self._meet_challenge(self.data.challenge)
        return self.progress

    @property
    def pauses(self) -> bool:
        """Whether epochs are left, which another start trains."""
        return self.progress.epochs < self.config.n_epochs

    def train_epoch(self, epoch: int, partial: dict[str, Any] | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """One pass over the training split; returns the predictions of its steps, labels and metadata.

        Args:
            epoch: its number, from 0.
            partial: the checkpoint within this epoch to resume from.
        """
        self.method.train()
        at_start = checkpoint.random_state() if partial is None else partial["random_at_start"]
        seen, since_log = ([], []) if partial is None else ([partial["seen"]], partial["since_log"])
        first = 0 if partial is None else partial["batches"]
        loader = self.data.loaders["train"]
        is_random = self.data.splits["train"].transform.random is not None
        batches = loader if partial is None else batches_after(loader, is_random, partial)
        for index, (x, y, metadata) in enumerate(self._bar(batches, f"epoch {epoch}", first), start=first):
            x, y = x.to(self.device, non_blocking=True), y.to(self.device, non_blocking=True)
            domain = self.data.domains.metadata_to_group(metadata).to(self.device) if self.sees_domains else None
            output, terms = self.step(Batch(x, y, domain), self.optimizer, f"epoch {epoch}, batch {index}")
            self.schedule.after_batch()
            since_log.append(terms)
            seen.append((output.logits.detach().argmax(dim=1).cpu(), y.cpu(), metadata))
            last = index + 1 == len(loader)
            if (index + 1) % self.config.log_every == 0 or last:
                self._log_terms(epoch, index + 1, since_log)
                since_log = []
            if not last and self.interval.is_due():
                seen = [_joined(seen)]
                self._save_partial(index + 1, at_start, seen[0], since_log)
        return _joined(seen)

    @torch.no_grad()
    def evaluate(self) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
        """Predictions, labels and metadata of every split but train. Does not change the run's state.

        The logits are kept until the next evaluation, for `_keep_logits`.
        """
        self.method.eval()
        outcomes = {}
        with checkpoint.preserved_randomness():
            for split, loader in self.data.loaders.items():
                if split == "train":
                    continue
                seen, self._logits[split] = [], []
                for x, y, metadata in self._bar(loader, split):
                    logits = self.step.predict(x.to(self.device, non_blocking=True))
                    if self._keeps_logits:
                        self._logits[split].append(logits.cpu())
                    seen.append((logits.argmax(dim=1).cpu(), y, metadata))
                outcomes[split] = _joined(seen)
        return outcomes

    def _report(self, y_pred: Tensor, y_true: Tensor, metadata: Tensor) -> Report:
        grouper = self.data.groups
        if grouper is None:
            return make_report(y_pred, y_true)
        names = [grouper.group_field_str(group) for group in range(grouper.n_groups)]
        groups = grouper.metadata_to_group(metadata)
        return make_report(y_pred, y_true, groups, names, self.config.ignored_groups, self.shares)

    def _finish_epoch(
        self, epoch: int, outcomes: dict[str, tuple[Tensor, Tensor, Tensor]], reports: dict[str, Report]
    ) -> None:
        """Write all files of the epoch. The checkpoint comes last: it marks the epoch as done."""
        progress = self.progress
        for split, outcome in outcomes.items():
            row = self._table_row(epoch, outcome, reports[split])
            progress.tables.setdefault(f"{split}_eval", []).append(row)
        self.schedule.after_epoch(progress.tables["val_eval"][-1])
        value = reports["val"].select(self.config.selection)
        improved = progress.best_value is None or value > progress.best_value
        if improved:
            progress.best_value, progress.best_epoch = value, epoch
            progress.results = {split: report.as_dict() for split, report in reports.items() if split != "train"}
            self.folder.log(f"Epoch {epoch} has the best {self.config.selection} of validation so far: {value:.3f}")
        progress.epochs = epoch + 1
        for name, rows in progress.tables.items():
            self.folder.write_table(name, rows)
        for which in ("last", *(["best"] if improved else [])):
            for split, (y_pred, _, _) in outcomes.items():
                if split != "train":
                    self.folder.write_predictions(split, which, y_pred)
        if improved and self._keeps_logits:
            self._keep_logits(epoch, value, {split: y for split, (_, y, _) in outcomes.items()})
        self._save("best" if improved else None)
        self.folder.write_record(self.full_record())

    def _keep_logits(self, epoch: int, value: float, labels: dict[str, Tensor]) -> None:
        """Write the logits of this epoch, the best so far by `value`, on each evaluated split."""
        for split, parts in self._logits.items():
            images = np.asarray(self.data.splits[split].indices)
            logits = torch.cat(parts).float().numpy()
            Outputs(logits, labels[split].numpy(), images, epoch, value).write(self.folder.logits(split))

    def _meet_challenge(self, challenge: Challenge) -> None:
        """Count and record the foregrounds for which a background misleads the model of the best epoch."""
        self.method.load_state_dict(checkpoint.load(self.folder.model("best"), self.device)["algorithm"])
        self.method.eval()

        def predict(pixels: Tensor) -> Tensor:
            return self.step.predict(self.method.pixel_space.from_pixels(pixels)).argmax(dim=1)

        vulnerable = challenge.vulnerable(predict, self.device, self.config.batch_size)
        self.progress.results["adversarial"] = {"vulnerable": vulnerable.rate, "count": vulnerable.total}
        row = {"epoch": self.progress.best_epoch, "vulnerable": vulnerable.rate, "foregrounds": vulnerable.total}
        self.folder.write_table("adversarial_eval", [row])
        self.folder.write_record(self.full_record())
        self.folder.log(f"adversarial backgrounds: {vulnerable.count} of {vulnerable.total} foregrounds are vulnerable")

    def _table_row(self, epoch: int, outcome: tuple[Tensor, Tensor, Tensor], report: Report) -> dict[str, Any]:
        """The results of the package's own evaluation and the figures that it omits. Waterbirds' average is ours."""
        results, _ = self.data.dataset.eval(*outcome)
        row = {
            "epoch": epoch,
            **{k: float(v) for k, v in results.items()},
            "acc_avg": report.average,
            "acc_worst_class": report.worst_class,
            "F1-macro_all": report.macro_f1,
        }
        return row | ({"adj_acc_avg": report.adjusted_average} if report.adjusted_average is not None else {})

    def _log_terms(self, epoch: int, batch: int, terms: list[dict[str, float]]) -> None:
        means = {name: sum(t[name] for t in terms) / len(terms) for name in terms[0]}
        rate = self.optimizer.param_groups[0]["lr"]
        self.progress.tables.setdefault("train_algo", []).append({"epoch": epoch, "batch": batch, "lr": rate, **means})
        self.folder.log(f"batch {batch}: " + ", ".join(f"{name} {value:.4f}" for name, value in means.items()))

    def _save(self, extra: str | None) -> None:
        state = self._state()
        with self.interval.writing():
            for which in (*([extra] if extra else []), "last"):
                checkpoint.save(self.folder.model(which), state)
        self.folder.partial.unlink(missing_ok=True)

    def _save_partial(
        self, batches: int, at_start: dict[str, Any], seen: tuple[Tensor, ...], since_log: list[dict[str, float]]
    ) -> None:
        """Write a checkpoint within an epoch. If the disk is full, the last one stays and the training goes on."""
        state = self._state() | {
            "batches": batches,
            "random_at_start": at_start,
            "seen": seen,
            "since_log": since_log,
        }
        with self.interval.writing():
            try:
                checkpoint.save(self.folder.partial, state)
            except OSError as error:
                self.folder.log(f"warning: no checkpoint after batch {batches}: {error.strerror}")

    def _state(self) -> dict[str, Any]:
        self._measure()
        return {
            "algorithm": self.method.state_dict(),
            "epoch": self.progress.epochs - 1,
            "best_val_metric": self.progress.best_value,
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.schedule.scheduler.state_dict(),
            "step": self.step.state_dict(),
            "random": checkpoint.random_state(),
            "threads": torch.get_num_threads(),
            "progress": dataclasses.asdict(self.progress),
            "config": self._identity(),
        }

    def _resume(self) -> dict[str, Any] | None:
        """Resume from the last checkpoint, if there is one; returns it if it lies within an epoch."""
        last, partial = self.folder.model("last"), self.folder.partial
        state = checkpoint.load(last, self.device) if last.exists() else None
        in_epoch = checkpoint.load(partial, self.device) if partial.exists() else None
        with self._of_this_run():
            if in_epoch is not None and state is not None and in_epoch["epoch"] != state["epoch"]:
                in_epoch = None  # its epoch is already complete
            if in_epoch is not None or state is not None:
                self._restore(in_epoch or state or {})
        if in_epoch is not None:
            self.folder.log(f"after batch {in_epoch['batches']}")
        return in_epoch

    @contextlib.contextmanager
    def _of_this_run(self) -> Iterator[None]:
        """What a checkpoint of something else raises, as a UserError."""
        try:
            yield
        except UserError:
            raise
        except (LookupError, TypeError, AttributeError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"the checkpoint in {self.folder.path} is not one of this run: {reason}") from None

    def _restore(self, state: dict[str, Any]) -> None:
        before, now = state.get("config", {}), self._identity()
        for name in now:
            if before.get(name) != now[name]:
                raise UserError(
                    f"the run in {self.folder.path} has {name} {before.get(name)!r} and is to go on with {now[name]!r}"
                )
        self.method.load_state_dict(state["algorithm"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.scheduler.load_state_dict(state["scheduler"])
        if "step" in state:  # checkpoints of earlier versions do not have it
            self.step.load_state_dict(state["step"])
        self.progress = Progress(**state["progress"])
        checkpoint.restore_random_state(state["random"])
        if warning := checkpoint.keep_threads(state.get("threads"), self.device):
            self.folder.log(f"warning: {warning}")
        self.folder.log(f"Resuming from epoch {self.progress.epochs}")

    def _identity(self) -> dict[str, Any]:
        """The settings that may not change when a run is resumed; the length too if the schedule uses it."""
        free = set(FREE) - ({"n_epochs"} if self.schedule.by_step else set())
        values = {f.name: getattr(self.config, f.name) for f in dataclasses.fields(self.config) if f.name not in free}
        return values | {"hparams": dict(self.method.hparams)}

    def _measure(self) -> None:
        """Add the seconds since the last call to those of the run."""
        now = time.monotonic()
        self.progress.seconds += now - self._clock
        self._clock = now

    def full_record(self) -> dict[str, Any]:
        """The content of run.json."""
        self._measure()
        progress = self.progress
        return self.record | {
            "selected_epoch": progress.best_epoch,
            "selected_value": progress.best_value,
            "epochs": progress.epochs,
            "seconds": round(progress.seconds, 1),
            "threads": torch.get_num_threads(),
            "finished": progress.epochs >= self.config.n_epochs
            and (not self.config.adversarial or "adversarial" in progress.results),
            "results": progress.results,
        }

    def _bar(self, batches: Iterable[Any], what: str, first: int = 0) -> Any:
        return tqdm(batches, desc=what, leave=False, initial=first) if self.config.progress_bar else batches


def _joined(seen: list[tuple[Tensor, Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
    y_pred, y_true, metadata = (torch.cat(parts) for parts in zip(*seen, strict=True))
    return y_pred, y_true, metadata
