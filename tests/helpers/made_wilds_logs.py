"""Log folders as `cim-dg wilds train` leaves them for Waterbirds, with made-up accuracies."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

GROUPS = ("land_on_land", "land_on_water", "water_on_land", "water_on_water")
_ACCURACIES = {
    "val": [(0.8, 0.7, 0.7, 0.8), (1.0, 0.9, 0.1, 0.9)],
    "test": [(0.8, 0.7, 0.6, 0.8), (0.9, 0.9, 0.1, 0.9)],
}


def write_wilds_log(
    folder: Path,
    algorithm: str,
    counts: Sequence[int] = (10, 10, 10, 10),
    seed: int = 0,
    lower: float = 0.0,
    adjusted: Sequence[float] = (),
    **more: object,
) -> Path:
    """A finished run of two epochs, of which the second is the best.

    `counts` are the test images of the groups, `lower` is taken from every accuracy, `adjusted`, if given, has the
    adjusted average of each epoch, `more` is put into its record.
    """
    folder.mkdir(parents=True)
    for split, epochs in _ACCURACIES.items():
        names = ["epoch", *(f"acc_{group}" for group in GROUPS), *(f"count_{group}" for group in GROUPS)]
        lines = [",".join([*names, "acc_avg", "acc_wg", *(["adj_acc_avg"] if adjusted else [])])]
        for epoch, made in enumerate(epochs):
            values = [value - lower for value in made]
            average = sum(a * c for a, c in zip(values, counts, strict=True)) / sum(counts)
            figures = [epoch, *values, *counts, average, min(values), *adjusted[epoch : epoch + 1]]
            lines.append(",".join(map(str, figures)))
        (folder / f"{split}_eval.csv").write_text("\n".join(lines) + "\n")
    content = {
        **{"harness": "wilds", "dataset": "waterbirds", "algorithm": algorithm, "seed": seed, "selection": "average"},
        **{"selected_epoch": 1, "used_domains": False, "finished": True, "hparams": {}, "config": {}, **more},
    }
    (folder / "run.json").write_text(json.dumps(content))
    return folder
