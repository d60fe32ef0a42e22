"""Mean of the mask on digit and on background pixels of NuisanceDigits' environment 'new', over finished CIM jobs.

    python docs/digits_mask.py SWEEP_FOLDER...

Each folder is a DomainBed sweep; its jobs of algorithms with a mask and test environment 'new' are read. A pixel
belongs to the digit if the digit's opacity is at least 0.5.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path

import torch

from cim_dg.commands import models
from cim_dg.domainbed.datasets import environments_for

NEW = 2


def mask_means(checkpoint_file: Path) -> tuple[str, float, float]:
    """Algorithm, mean mask on digit pixels, mean mask on background pixels (both in [0, 1])."""
    stored = models.read(checkpoint_file)
    method = models.build(stored).method
    new = environments_for(stored.about["hparams"])[NEW]
    with torch.no_grad():
        mask = method.morph(new.images).mask.mean(dim=1)
    digit = new.digit_mask()
    return stored.about["algorithm"], mask[digit].mean().item(), mask[~digit].mean().item()


def main(folders: list[str]) -> None:
    """Print each method's mean mask on the digit and off it, over the jobs in `folders`."""
    means = defaultdict(list)
    for folder in map(Path, folders):
        for done in sorted(folder.glob("*/done")):
            args = json.loads((done.parent / "provenance.json").read_text())["args"]
            if args["test_envs"] == [NEW] and args["algorithm"].startswith("CIM"):
                algorithm, *both = mask_means(done.parent / "model.pkl")
                means[folder, algorithm].append(both)
    for (folder, algorithm), both in means.items():
        digit, background = torch.tensor(both).mean(dim=0).tolist()
        print(f"{folder}  {algorithm}: {digit:.2f} on digit, {background:.2f} on background ({len(both)} trials)")


if __name__ == "__main__":
    main(sys.argv[1:])
