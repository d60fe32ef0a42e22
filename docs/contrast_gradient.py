"""The gradient of CIM's similarities on photographs, by normalisation and working size, as a Markdown table.

    cim-dg data get VLCSMini --data_dir DATA && python docs/contrast_gradient.py DATA/VLCSMini

Pairs are an image dimmed by CIM's initial mask, 0.9 x, with another image of its class, and with one of another class.
The gradient is that of the pair's similarity in the dimmed image. Pairs and batches are random, with a fixed seed.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torchvision.datasets import ImageFolder
from torchvision.transforms import Compose, Resize, ToTensor

from cim_dg.nn.pairing import choose_pairs
from cim_dg.nn.perceptual import pair_similarities
from cim_dg.nn.working_size import average_to

SIDE, ANCHORS, BATCHES = 224, 24, 12
SETTINGS = [(normalize, side) for side in (SIDE, 112, 56, 28) for normalize in ("relu", "simple")]


def main(folder: Path) -> None:
    """Print the table for a folder of domains, each with a folder for each class."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    transform = Compose([Resize((SIDE, SIDE)), ToTensor()])
    photographs = [pair for domain in sorted(folder.glob("*/")) for pair in ImageFolder(str(domain), transform)]
    classes = torch.tensor([label for _, label in photographs])
    norms: dict[tuple[str, int], list[torch.Tensor]] = {setting: [] for setting in SETTINGS}
    for _ in range(BATCHES):
        rows = torch.randperm(len(photographs))[:ANCHORS]
        batch = torch.stack([photographs[int(row)][0] for row in rows])
        pairs = choose_pairs(classes[rows], torch.arange(len(rows)))[:, 0]
        for normalize, side in SETTINGS:
            images = average_to(batch, side)
            for index in pairs:  # a pair for each image, so that the images' gradients are those of the pairs
                morphed = (0.9 * images).requires_grad_()
                values, _ = pair_similarities(morphed, images, index[None], normalize=normalize)
                values.sum().backward()
                assert morphed.grad is not None
                norms[normalize, side].append(morphed.grad.flatten(1).norm(dim=1)[index >= 0])
    print(f"{len(photographs)} photographs, {sum(map(len, norms['relu', SIDE]))} pairs\n")
    print("| normalisation | side | pairs without a gradient | median norm of the others | 99th percentile / median |")
    print("|---|---|---|---|---|")
    for (normalize, side), parts in norms.items():
        norm = torch.cat(parts)
        active = norm[norm > 0]
        largest, median = active.quantile(0.99).item(), active.median().item()
        without = 100 * (1 - len(active) / len(norm))
        print(f"| {normalize} | {side} | {without:.1f}% | {median:.2g} | {largest / median:.1f} |")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
