"""A sweep of two short runs of WILDS, on generated data."""

from __future__ import annotations

from pathlib import Path

import small_datasets

SWEEP = """
title: Waterbirds, tiny
harness: wilds
datasets: [waterbirds]
algorithms: [ERM, CIM]
n_trials: 1
selection: average
data: ["waterbirds_v*"]
table: waterbirds
options: {{model: small-cnn, model_kwargs: {{width: 8}}, transform: image_base, target_resolution: [16, 16],
          batch_size: {batch_size}, n_epochs: {n_epochs}, loader_kwargs: {{num_workers: 0}}, lr: 0.01, weight_decay: 0}}
"""


def write(output_dir: str, batch_size: int, n_epochs: int) -> list[str]:
    """Write the sweep and its data to the current folder; returns its command, without the launcher."""
    small_datasets.waterbirds(Path("data"))
    Path("mine.yaml").write_text(SWEEP.format(batch_size=batch_size, n_epochs=n_epochs))
    return ["sweep", "mine.yaml", "--data_dir", "data", "--output_dir", output_dir, "--skip_confirmation"]


def write_search(output_dir: str, batch_size: int, n_epochs: int, n_hparams: int) -> list[str]:
    """The same as search, then seeds, with two trials: so many settings are drawn."""
    words = write(output_dir, batch_size, n_epochs)
    path = Path("mine.yaml")
    text = path.read_text().replace("n_trials: 1", f"n_trials: 2\nn_hparams: {n_hparams}\nprotocol: search-then-seeds")
    path.write_text(text.replace(", lr: 0.01, weight_decay: 0", ""))
    return words
