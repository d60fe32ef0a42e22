"""Our data sets for DomainBed: NuisanceDigits (digits on nuisance backgrounds), Spirograph, VLCSMini (photographs).

The classes are created from the harness' own module, so that they derive from the base classes of that DomainBed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.random import RandomState
from torch.utils.data import TensorDataset

from cim_dg import hparams as spaces
from cim_dg.data import digits, spirograph
from cim_dg.errors import UserError
from cim_dg.nn.working_size import FEATURIZER_SIDE

SIDE = 36
DIGIT_SIDE = 28
MARGIN = (SIDE - DIGIT_SIDE) // 2
NUM_DIGITS = 1797
RATES = {"+90%": 0.9, "+80%": 0.8}  # how often a training environment's background follows the class


@dataclass(frozen=True)
class NuisanceEnvironment:
    """One environment of NuisanceDigits.

    images (N, 3, S, S) in [0, 1], labels (N,) from 0 to 9, and the opacities (N, S, S) of the digits in them; S is 36
    by default.
    """

    name: str
    images: torch.Tensor
    labels: torch.Tensor
    opacities: torch.Tensor

    def digit_mask(self) -> torch.Tensor:
        """The pixels of the digits (opacity of at least 0.5): (N, S, S), bool, in the order of the data set."""
        return self.opacities >= 0.5


def nuisance_environments(
    seed: int = 0, background: str = "texture", count: int = 300, side: int = SIDE, shift: int = 0
) -> list[NuisanceEnvironment]:
    """The three environments of NuisanceDigits, disjoint in digits. They depend on these arguments only.

    In '+90%' and '+80%' (`count` digits each) the background follows a class z: at the stated rate the digit's own,
    else any. It is stripes at angle pi (z + U) / 10 ("texture"), or a plain colour at (z + U) / 10 of the colour circle
    ("plain"), with U uniform in [0, 1). In 'new' (all other digits) it is independent of the class: random stripes,
    plain random colours and crops of photographs, a third each, for any `background`.

    At another `side` than 36, digits, stripes and crops grow with the image: the same pictures in more pixels. Each
    digit is moved from the centre down and to the right by whole numbers from -`shift` to `shift`, in units of a 36th
    of the side, drawn uniformly. Backgrounds do not depend on the shift.

    Raises:
        UserError: an argument is out of its range (hparams/datasets/NuisanceDigits.yaml).
    """
    _check(dict(zip(OPTIONS, (seed, background, count, side, shift), strict=True)))
    small, labels = digits.load_digits()
    order = RandomState([seed, 0]).permutation(NUM_DIGITS)
    parts = np.split(order, [count, 2 * count])
    digit_side = round(DIGIT_SIDE * side / SIDE)
    environments = []
    for index, (name, part) in enumerate(zip([*RATES, "new"], parts, strict=True), start=1):
        # A stream per environment, so that 'new' has the same images for any training backgrounds.
        rng = RandomState([seed, index])
        if name in RATES:
            backgrounds = _following(rng, labels[part], RATES[name], background, side)
        else:
            backgrounds = _following_nothing(rng, len(part), side)
        shifts = RandomState([seed, index, 1]).randint(-shift, shift + 1, size=(len(part), 2))
        corners = np.rint((MARGIN + shifts) / (2 * MARGIN) * (side - digit_side)).astype(int)
        opacities = digits.enlarge(small[part], digit_side, side, corners)
        images = digits.compose(opacities, backgrounds)
        environments.append(NuisanceEnvironment(name, *map(torch.from_numpy, (images, labels[part], opacities))))
    return environments


OPTIONS = ("nuisance_seed", "nuisance_background", "nuisance_digits", "nuisance_side", "nuisance_shift")
"""The hyper-parameters that are the arguments of `nuisance_environments`."""


def environments_for(hparams: Mapping[str, Any]) -> list[NuisanceEnvironment]:
    """The environments of NuisanceDigits that a run with these hparams sees; for the masks of digits, say.

    Raises:
        UserError: one of the data set's own hparams is not accepted.
    """
    own = _check({name: value for name, value in hparams.items() if name in (*OPTIONS, FEATURIZER_SIDE)})
    entries = spaces.space("datasets/NuisanceDigits")
    return nuisance_environments(*(own.get(name, entries[name].default) for name in OPTIONS))


def _check(options: Mapping[str, Any]) -> dict[str, Any]:
    return spaces.check(spaces.space("datasets/NuisanceDigits"), options)


def _following(rng: RandomState, labels: np.ndarray, rate: float, background: str, side: int) -> np.ndarray:
    count = len(labels)
    followed = np.where(rng.uniform(size=count) < rate, labels, rng.randint(10, size=count))
    tenths = (followed + rng.uniform(size=count)) / 10
    if background == "texture":
        return digits.stripes(rng, np.pi * tenths, side, side / SIDE)
    return digits.hues(tenths, side)


def _following_nothing(rng: RandomState, count: int, side: int) -> np.ndarray:
    # The digits are shuffled, so every third one is a random third.
    thirds = [len(range(start, count, 3)) for start in range(3)]
    backgrounds = np.empty((count, digits.CHANNELS, side, side), dtype=np.float32)
    backgrounds[0::3] = digits.stripes(rng, rng.uniform(0, np.pi, size=thirds[0]), side, side / SIDE)
    backgrounds[1::3] = digits.plain_colours(rng, thirds[1], side)
    backgrounds[2::3] = digits.photo_crops(rng, thirds[2], side, side / SIDE)
    return backgrounds


class SmallImages(TensorDataset):
    """Images (N, C, H, W) in [0, 1] and labels (N,), which harnesses must not augment or enlarge."""

    as_it_is = True


def make_nuisance_digits(datasets: ModuleType) -> type:
    """NuisanceDigits as a data set of the DomainBed with the given `domainbed.datasets` module."""
    base: Any = datasets.MultipleDomainDataset

    class NuisanceDigits(base):
        """Digits whose background follows the class in training ('+90%', '+80%') but not in 'new'.

        Images depend on the hparams `nuisance_...` only, so that all methods and trials see the same ones; see
        `nuisance_environments`. Featurizers get images of any side averaged to `featurizer_side` (36).
        """

        ENVIRONMENTS = [*RATES, "new"]  # noqa: RUF012 - DomainBed's own classes have plain lists
        INPUT_SHAPE = (digits.CHANNELS, SIDE, SIDE)
        N_STEPS = 200
        CHECKPOINT_FREQ = 50
        N_WORKERS = 0  # all images are in memory, so worker processes would only cost time

        def __init__(
            self, root: str | None, test_envs: list[int] | None = None, hparams: dict[str, Any] | None = None
        ) -> None:
            super().__init__()
            self.input_shape = self.shape_for(hparams or {})
            self.num_classes = 10
            self.environments = self.ENVIRONMENTS
            self.datasets = [SmallImages(one.images, one.labels) for one in environments_for(hparams or {})]

        @staticmethod
        def shape_for(hparams: Mapping[str, Any]) -> tuple[int, ...]:
            """The shape (C, H, W) of the images for these hparams."""
            side = hparams.get("nuisance_side", SIDE)
            return digits.CHANNELS, side, side

    return _as_of(NuisanceDigits, datasets)


def make_spirograph(datasets: ModuleType) -> type:
    """Spirograph as a data set of the DomainBed with the given `domainbed.datasets` module."""
    base: Any = datasets.MultipleDomainDataset

    class Spirograph(base):
        """Drawings whose class is a bin of m, the pen's reach; line width and colours are nuisances.

        The environments have nuisances of their own (see `spirograph.ENVIRONMENTS`). Images depend on the hparams
        `spirograph_seed` (0) and `spirograph_images` (400 per environment) alone. They are drawn at the side of
        NuisanceDigits, for the same featurizer everywhere: at 32, DomainBed has a Wide-ResNet and the stand-in none.
        """

        ENVIRONMENTS = [*spirograph.ENVIRONMENTS]  # noqa: RUF012 - as above
        INPUT_SHAPE = (3, SIDE, SIDE)
        N_STEPS = 200
        CHECKPOINT_FREQ = 50
        N_WORKERS = 0

        def __init__(
            self, root: str | None, test_envs: list[int] | None = None, hparams: dict[str, Any] | None = None
        ) -> None:
            super().__init__()
            self.input_shape = self.INPUT_SHAPE
            self.num_classes = spirograph.CLASSES
            self.environments = self.ENVIRONMENTS
            hparams = hparams or {}
            found = spirograph.environments(hparams.get("spirograph_seed", 0), hparams.get("spirograph_images", 400))
            self.datasets = [SmallImages(spirograph.draw(one, SIDE), one.classes()) for one in found.values()]

    return _as_of(Spirograph, datasets)


def make_vlcs_mini(datasets: ModuleType) -> type:
    """VLCSMini as a data set of the DomainBed with the given `domainbed.datasets` module."""
    base: Any = datasets.MultipleEnvironmentImageFolder

    class VLCSMini(base):
        """163 photographs of VLCS in three environments (Caltech, LabelMe, Sun) and four classes, at 224x224.

        Raises:
            UserError: ROOT/VLCSMini is not as `cim-dg data get VLCSMini` creates it.
        """

        ENVIRONMENTS = ["C", "L", "S"]  # noqa: RUF012 - as above
        INPUT_SHAPE = (3, 224, 224)
        N_STEPS = 100
        CHECKPOINT_FREQ = 25
        N_WORKERS = 0  # processes would cost more time than they save for so few images

        def __init__(
            self, root: str | None, test_envs: list[int] | None = None, hparams: dict[str, Any] | None = None
        ) -> None:
            folder = Path(root or ".", "VLCSMini")
            missing = [name for name in self.ENVIRONMENTS if not (folder / name).is_dir()]
            if root is None or missing:
                from cim_dg.data.present import sentence

                where = "--data_dir is not given" if root is None else f"there is no folder {folder / missing[0]}"
                raise UserError(f"VLCSMini: {where}; {sentence('domainbed', 'VLCSMini', root)}")
            if hparams is None:  # a fork whose image folders take only a root
                super().__init__(folder)
            else:
                super().__init__(folder, test_envs, hparams["data_augmentation"], hparams)

    return _as_of(VLCSMini, datasets)


def _as_of(cls: Any, module: ModuleType) -> type:
    if not hasattr(cls, "__len__"):  # DomainBed's base class before October 2020
        cls.__len__ = lambda self: len(self.datasets)
        cls.__getitem__ = lambda self, index: self.datasets[index]
    # Pickle finds a class by its module and qualified name, under which the plugin registers it.
    cls.__module__, cls.__qualname__ = module.__name__, cls.__name__
    return cls
