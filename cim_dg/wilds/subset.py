"""A split of a WILDS dataset, whose unreadable images end in a sentence with the file's name."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from PIL.Image import DecompressionBombError
from torch import Tensor
from torch.utils.data import default_collate
from wilds.datasets.wilds_dataset import WILDSSubset

from cim_dg.errors import UserError
from cim_dg.wilds.decoded import DecodedImages
from cim_dg.wilds.transforms import Transform


class ReadableSubset(WILDSSubset):
    """A split that raises a `UserError` with the file's name for an unreadable image.

    Attributes:
        decoded: the images in the cache, if it has them.
    """

    transform: Transform
    decoded: DecodedImages | None = None

    def __getitem__(self, index: int) -> tuple[Any, Tensor, Tensor]:
        with self._named(index):
            return super().__getitem__(index)

    def draw(self, index: int) -> Any:
        """The random numbers of the transform for item `index`, if the cache has the images.

        Raises:
            UserError: its file cannot be read.
        """
        assert self.decoded is not None
        with self._named(index):
            return self.decoded.draw(index)

    def pixels(self, index: int, drawn: Any) -> np.ndarray:
        """The image of item `index` before it is normalised, (3, H, W), uint8, if the cache has the images.

        Raises:
            UserError: it cannot be read.
        """
        assert self.decoded is not None
        with self._named(index):
            return self.decoded.pixels(index, drawn)

    @contextlib.contextmanager
    def _named(self, index: int) -> Iterator[None]:
        try:
            yield
        except UserError:
            raise
        # PIL's errors, and that of a table without the file's name.
        except (OSError, SyntaxError, ValueError, TypeError, MemoryError, DecompressionBombError) as error:
            names = getattr(self.dataset, "_input_array", None)
            name = f"image {self.indices[index]}" if names is None else f"image {names[self.indices[index]]}"
            raise UserError(f"{name} of {self.dataset_name} cannot be read: {error}") from None

    @property
    def collate(self) -> Callable[[list[Any]], Any]:
        """What makes a batch of items."""
        return super().collate or collate


def collate(items: list[Any]) -> Any:
    """Items (x, y, metadata) as a batch.

    Raises:
        UserError: the images differ in size.
    """
    if len(sizes := sorted({tuple(x.shape[-2:]) for x, *_ in items})) > 1:
        (height, width), (other_height, other_width), *_ = sizes
        raise UserError(
            f"images have different sizes, such as {height} x {width} and {other_height} x {other_width}; give "
            "--target_resolution HEIGHT WIDTH"
        )
    return default_collate(items)
