"""Which factors of a Spirograph drawing do features keep? R^2 of linear regression of the paper's four targets.

    python docs/spirograph.py [--seeds 3] [--steps 200] [--output docs]

A featurizer learns the class (five bins of m) with ERM, VIB, SCL and CIM, in the three environments of
`cim_dg.data.spirograph` together. Then it is frozen, and ridge regression from its features predicts m, b, sigma and
the red of the foreground, on drawings of the whole ranges that neither it nor the regression has seen. Beside it:
features of random weights, and a network that is trained on the four targets end to end. Prints a Markdown table;
writes spirograph-images.png (drawings of each environment, by m) and spirograph-r2.png (the table).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.random import RandomState
from sklearn.linear_model import RidgeCV
from sklearn.metrics import r2_score
from torch import Tensor, nn

from cim_dg import PixelSpace, SmallCNN
from cim_dg import hparams as spaces
from cim_dg.algorithms import REGISTRY, Batch
from cim_dg.data.spirograph import CLASSES, draw, environments, sample

TARGETS = ("m", "b", "sigma", "fore-red")
METHODS = ("ERM", "VIB", "SCL", "CIM")
TRAIN, FIT, TEST = 400, 1000, 1000  # drawings: per environment for the featurizer, for the regression, to score it
BATCH, RATE = 32, 1e-3
PENALTIES = np.logspace(0, 5, 11)  # of the regression; chosen by leave-one-out on its training data


def classify(name: str, steps: int, seed: int) -> nn.Module:
    """A featurizer that has learnt the class with a method, on the environments of `seed`."""
    parts = environments(seed, TRAIN).values()
    x, y = torch.cat([draw(part) for part in parts]), torch.cat([part.classes() for part in parts])
    torch.manual_seed(seed)
    pixels = PixelSpace.of("unit", channels=3)
    hparams = spaces.defaults(spaces.space(name, "Spirograph"))
    method = REGISTRY[name](
        SmallCNN(3), lambda n_features: nn.Linear(n_features, CLASSES), pixels, CLASSES, hparams=hparams
    )

    def loss(chosen: Tensor) -> Tensor:
        return method(Batch(x[chosen], y[chosen])).terms["loss"]

    optimise(method, loss, len(x), steps, method.after_step)
    method.eval()
    # The input of CIM's featurizer is the morphed image.
    morph = getattr(method, "morph", None)
    return method.featurizer if morph is None else nn.Sequential(Morphed(method), method.featurizer)


class Morphed(nn.Module):
    """The inputs of CIM's featurizer."""

    def __init__(self, method: nn.Module) -> None:
        super().__init__()
        self.method = method

    def forward(self, x: Tensor) -> Tensor:
        """The morphed images, in the shape of `x`."""
        return self.method.morph(x).inputs


def end_to_end(steps: int, seed: int) -> nn.Module:
    """A featurizer that has learnt the four targets, on drawings of the whole ranges."""
    parameters = sample(3 * TRAIN, RandomState([seed, 10]))
    x, y = draw(parameters), parameters.targets()
    y = (y - y.mean(dim=0)) / y.std(dim=0)
    torch.manual_seed(seed)
    featurizer = SmallCNN(3)
    network = nn.Sequential(featurizer, nn.Linear(featurizer.n_outputs, len(TARGETS)))

    def loss(chosen: Tensor) -> Tensor:
        return nn.functional.mse_loss(network(x[chosen]), y[chosen])

    optimise(network, loss, len(x), steps)
    return featurizer.eval()


def optimise(
    module: nn.Module,
    loss: Callable[[Tensor], Tensor],
    count: int,
    steps: int,
    after_step: Callable[[], None] = lambda: None,
) -> None:
    """Adam on random batches of `count` images."""
    optimizer = torch.optim.Adam(module.parameters(), lr=RATE)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(torch.randperm(count)[:BATCH]).backward()
        optimizer.step()
        after_step()


@torch.no_grad()
def scores(featurizer: nn.Module, seed: int) -> np.ndarray:
    """R^2 of each target, (4,), on drawings that were not used to fit."""
    parts = [sample(count, RandomState([seed, 20 + index])) for index, count in enumerate((FIT, TEST))]
    fit, test = (
        (torch.cat([featurizer(x) for x in draw(part).split(250)]).numpy(), part.targets().numpy()) for part in parts
    )
    mean, std = fit[0].mean(axis=0), fit[0].std(axis=0)
    std = np.maximum(std, 0.01 * std.max())  # a nearly constant feature must not be scaled up
    regression = RidgeCV(PENALTIES).fit((fit[0] - mean) / std, fit[1])
    return r2_score(test[1], regression.predict((test[0] - mean) / std), multioutput="raw_values")


def contact_sheet(path: Path, columns: int = 10) -> None:
    """A row per environment, its drawings sorted by m."""
    figure = Figure(figsize=(columns, 3.4), layout="constrained")
    for row, (name, parameters) in enumerate(environments(0, columns).items()):
        images = draw(parameters)
        for column, index in enumerate(parameters.m.argsort().tolist()):
            axis = figure.add_subplot(3, columns, row * columns + column + 1, xticks=[], yticks=[])
            axis.imshow(images[index].permute(1, 2, 0))
            axis.set_xlabel(f"m {parameters.m[index]:.1f}", fontsize="small")
            if column == 0:
                axis.set_ylabel(name)
    figure.savefig(path, dpi=80)


def plot(scores_by_method: dict[str, np.ndarray], path: Path) -> None:
    """A panel per target: each run a dot, the mean a line."""
    figure = Figure(figsize=(8, 2.6), layout="constrained")
    panels = figure.subplots(1, len(TARGETS), sharey=True)
    for place, (axis, target) in enumerate(zip(panels, TARGETS, strict=True)):
        for row, values in enumerate(scores_by_method.values()):
            axis.plot(values[:, place], [row] * len(values), "o", color="#0072B2", markersize=4)
            axis.plot([values[:, place].mean()] * 2, [row - 0.3, row + 0.3], color="#000000")
        axis.set(
            title=target,
            xlabel="R²",
            xlim=(-0.05, 1.05),
            yticks=range(len(scores_by_method)),
            yticklabels=list(scores_by_method),
        )
        axis.grid(axis="x", color="#dddddd", linewidth=0.6)
    panels[0].invert_yaxis()
    figure.savefig(path, dpi=100)


def main() -> None:
    """Train the featurizers, then write the pictures and print the table."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--output", type=Path, default=Path("docs"))
    arguments = parser.parse_args()
    makers: dict[str, Callable[[int], nn.Module]] = {
        "random weights": lambda seed: classify("ERM", 0, seed),
        **{name: lambda seed, name=name: classify(name, arguments.steps, seed) for name in METHODS},
        "end to end": lambda seed: end_to_end(arguments.steps, seed),
    }
    scores_by_method = {}
    print(f"| features | {' | '.join(TARGETS)} |\n|---{'|---' * len(TARGETS)}|")
    for name, make in makers.items():
        scores_by_method[name] = np.stack([scores(make(seed), seed) for seed in range(arguments.seeds)])
        cells = (
            f"{values.mean():.2f} ± {values.std() / np.sqrt(len(values)):.2f}" for values in scores_by_method[name].T
        )
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
    contact_sheet(arguments.output / "spirograph-images.png")
    plot(scores_by_method, arguments.output / "spirograph-r2.png")


if __name__ == "__main__":
    main()
