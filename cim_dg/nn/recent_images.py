"""A queue of the images of the last batches, for a contrast with too few pairs in one batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class RecentImages(nn.Module):
    """A queue of at most `size` images with their labels; it is part of the state dict.

    Images are stored as bytes, a quarter of the memory of float32: pixels are clamped to [0, 1] and rounded to 1/255.

    Args:
        size: the largest number of images, at least 1.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self._queue: dict[str, Tensor] = {}
        # A list, which the replicas of DataParallel share with the module that they are copies of.
        self._seen: list[tuple[Tensor, Tensor, Tensor | None]] = []

    def extend(self, pixels: Tensor, y: Tensor, domain: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Append the queue to a batch: pixels (N, C, H, W), labels (N,), and domains (N,) or None.

        Returns:
            The same three with up to N + size rows.
        """
        if not self._queue:
            return pixels, y, domain
        return (
            torch.cat([pixels, self._queue["pixels"].to(pixels) / 255.0]),
            torch.cat([y, self._queue["y"].to(y)]),
            None if domain is None else torch.cat([domain, self._queue["domain"].to(domain)]),
        )

    def see(self, pixels: Tensor, y: Tensor, domain: Tensor | None) -> None:
        """Keep a batch (as in `extend`), or a replica's part of one, until `push_seen` pushes it."""
        self._seen.append((pixels.detach(), y, domain))

    def push_seen(self) -> None:
        """Push the batches seen since the last call, those of replicas in the order of their devices."""
        for batch in sorted(self._seen, key=lambda seen: seen[1].device.index or 0, reverse=True):
            self.push(*batch)
        self._seen.clear()

    def push(self, pixels: Tensor, y: Tensor, domain: Tensor | None) -> None:
        """Put a batch (as in `extend`) at the head of the queue; the oldest images leave it."""
        new = {"pixels": (pixels.detach().clamp(0, 1) * 255).round().to(torch.uint8), "y": y}
        if domain is not None:
            new["domain"] = domain
        if self._queue:
            new = {name: torch.cat([value, self._queue[name].to(value.device)]) for name, value in new.items()}
        self._queue = {name: value[: self.size] for name, value in new.items()}

    def get_extra_state(self) -> dict[str, Tensor]:
        """The queue, for `state_dict`."""
        return self._queue

    def set_extra_state(self, state: Any) -> None:
        """Restore the queue, for `load_state_dict`."""
        self._queue = dict(state)
