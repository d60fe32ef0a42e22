"""The adversarial test of the Backgrounds Challenge: the foregrounds for which some background misleads a classifier.

Each foreground of DATA/fg_mask/val/CLASS/NAME.npy (a mask over DATA/original/val/CLASS/NAME.JPEG) is put in front of
every background of DATA/only_bg_t/val, of any class. It is vulnerable if one of the composed images is misclassified
(Xiao et al. 2020, arXiv 2006.09994). The "challenge accuracy" of upstream's leaderboard is the share of the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as TF

from cim_dg.backgrounds.in9 import class_folder, read_image, tested_on
from cim_dg.errors import UserError

FOREGROUNDS = "fg_mask/val"
Foreground = tuple[Tensor, Tensor, int]
"""Pixels (3, H, W), uint8; mask (1, H, W), bool; class."""


@dataclass(frozen=True)
class Vulnerable:
    """`count` of `total` foregrounds are vulnerable."""

    count: int
    total: int

    @property
    def rate(self) -> float:
        """The share of vulnerable foregrounds, in [0, 1]; lower is better."""
        return self.count / self.total


class Challenge:
    """Foregrounds and backgrounds below `root`, resized to `size`, (height, width).

    Raises:
        UserError: a folder, or the image of a mask, is missing.
    """

    def __init__(self, root: str | Path, size: list[int]) -> None:
        self.size = size
        self.backgrounds = class_folder(Path(root), tested_on("only_bg_t"))
        originals = class_folder(Path(root), tested_on("original"))
        masks = Path(root) / FOREGROUNDS
        if not masks.is_dir():
            raise UserError(f"adversarial backgrounds need the foregrounds' masks, and there is no folder {masks}")
        images = {(label, Path(name).stem): name for name, label in originals.samples}
        self.foregrounds: list[tuple[str, Path, int]] = []
        for label, name in enumerate(originals.classes):
            for path in sorted((masks / name).glob("*.npy")):
                if (label, path.stem) not in images:
                    raise UserError(f"there is no image {path.stem} in {originals.root}/{name} for the mask {path}")
                self.foregrounds.append((images[label, path.stem], path, label))
        if not self.foregrounds:
            raise UserError(f"{masks} holds no masks; expected is {masks}/CLASS/NAME.npy, as upstream has them")

    def vulnerable(self, predict: Callable[[Tensor], Tensor], device: torch.device, batch_size: int) -> Vulnerable:
        """Count the foregrounds for which a background misleads `predict`, (N, 3, H, W) in [0, 1] -> (N,) classes.

        Raises:
            UserError: an image or a mask cannot be read.
        """
        backgrounds = torch.stack([self._pixels(name) for name, _ in self.backgrounds.samples]).to(device)
        return count_vulnerable(predict, self._read_foregrounds(device), backgrounds, batch_size)

    def _read_foregrounds(self, device: torch.device) -> Iterator[Foreground]:
        for name, path, label in self.foregrounds:
            yield self._pixels(name).to(device), self._mask(path).to(device), label

    def _pixels(self, name: str) -> Tensor:
        return TF.pil_to_tensor(TF.resize(read_image(name), self.size))

    def _mask(self, path: Path) -> Tensor:
        try:
            mask = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise UserError(f"the mask {path} cannot be read: {error}") from None
        if mask.ndim != 2:
            raise UserError(f"the mask {path} has the shape {mask.shape}; accepted is (height, width)")
        image = Image.fromarray(np.where(mask, 255, 0).astype(np.uint8))
        return TF.pil_to_tensor(TF.resize(image, self.size, InterpolationMode.NEAREST)) > 0


@torch.no_grad()
def count_vulnerable(
    predict: Callable[[Tensor], Tensor], foregrounds: Iterable[Foreground], backgrounds: Tensor, batch_size: int
) -> Vulnerable:
    """Count the foregrounds that are misclassified in front of at least one background.

    The backgrounds that misled most foregrounds so far come first, and the others are skipped once one has misled.
    This changes the time, not the count.

    Args:
        predict: (N, 3, H, W) in [0, 1] -> (N,) classes.
        foregrounds: pixels (3, H, W), masks (1, H, W) and classes.
        backgrounds: (B, 3, H, W), uint8.
        batch_size: the number of images to classify at a time.
    """
    fooled = torch.zeros(len(backgrounds), dtype=torch.int64, device=backgrounds.device)
    count = total = 0
    for pixels, mask, label in foregrounds:
        total += 1
        for chosen in fooled.argsort(descending=True, stable=True).split(batch_size):
            composed = torch.where(mask, pixels, backgrounds[chosen]).float() / 255
            misclassified = predict(composed) != label
            if misclassified.any():
                fooled[chosen] += misclassified
                count += 1
                break
    return Vulnerable(count, total)
