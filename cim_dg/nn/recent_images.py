"""The images of the last batches, for a contrast that finds too few partners in one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class RecentImages(nn.Module):
    """A queue of at most `size` images with their labels; a part of the state that a checkpoint carries.

    Images are kept as bytes, a quarter of the memory: pixels are clamped to [0, 1] and rounded to 1/255.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self._kept: dict[str, Tensor] = {}

    def extend(self, pixels: Tensor, y: Tensor, domain: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """A batch (N, C, H, W), (N,), (N,) or None, followed by the images in the queue: up to N + size rows."""
        if not self._kept:
            return pixels, y, domain
        return (
            torch.cat([pixels, self._kept["pixels"].to(pixels) / 255.0]),
            torch.cat([y, self._kept["y"].to(y)]),
            None if domain is None else torch.cat([domain, self._kept["domain"].to(domain)]),
        )

    def push(self, pixels: Tensor, y: Tensor, domain: Tensor | None) -> None:
        """Put a batch at the head of the queue; the oldest images leave it."""
        new = {"pixels": (pixels.detach().clamp(0, 1) * 255).round().to(torch.uint8), "y": y}
        if domain is not None:
            new["domain"] = domain
        if self._kept:
            new = {name: torch.cat([value, self._kept[name].to(value.device)]) for name, value in new.items()}
        self._kept = {name: value[: self.size] for name, value in new.items()}

    def get_extra_state(self) -> dict[str, Tensor]:
        return self._kept

    def set_extra_state(self, state: Any) -> None:
        self._kept = dict(state)
