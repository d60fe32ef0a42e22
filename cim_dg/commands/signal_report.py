"""The report of `cim-dg signal`: a table, a sentence, and a picture."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from cim_dg.commands.signal_measure import GradientSignal, Ratios, Similarities
from cim_dg.nn.gradient_signal import Estimate

_INK, _TRUE, _OTHER = "#333333", "#0072B2", "#D55E00"  # of Okabe and Ito's palette, for any colour vision

Row = tuple[str, float, float | None, float | None]
"""A figure's name, its value, and the ends of its interval if it has one."""


def rows(similar: Similarities, signal: GradientSignal) -> list[Row]:
    """All figures, in the order of the report."""
    estimates = {
        "MS-SSIM within classes": similar.within,
        "MS-SSIM across classes": similar.across,
        "within less across": similar.gap,
        "signal-to-noise of gradients, true labels": signal.gradient.true,
        "signal-to-noise of gradients, shuffled labels": signal.gradient.shuffled,
        "signal-to-noise of directions, true labels": signal.direction.true,
        "signal-to-noise of directions, shuffled labels": signal.direction.shuffled,
        "true less shuffled, directions": signal.direction.difference,
    }
    shares = {
        "share of the largest of the gradients' squared norms": signal.largest,
        "same-class pairs without gradient": signal.without_gradient[0],
        "other-class pairs without gradient": signal.without_gradient[1],
        "anchors with a positive": signal.positives,
    }
    return [
        *((name, each.value, each.low, each.high) for name, each in estimates.items()),
        *((name, value, None, None) for name, value in shares.items()),
    ]


def as_csv(table: Sequence[Row]) -> str:
    """The figures as CSV."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["figure", "value", "low", "high"])
    for name, *ends in table:
        writer.writerow([name.replace(",", ""), *("" if end is None else f"{end:.6g}" for end in ends)])
    return out.getvalue()


def text(title: str, table: Sequence[Row], sentence: str) -> str:
    """The figures as a table for people, with the sentence below."""
    from cim_dg.results.grids import Grid
    from cim_dg.results.render_text import for_stdout

    cells = [[[name], [_number(name, value)], [_interval(low, high)]] for name, value, low, high in table]
    grid = Grid(title, ["", "estimate", "95% interval"], cells, [False] * len(cells), [sentence], [False, True, True])
    return for_stdout([grid])


def meaning(similar: Similarities, signal: GradientSignal) -> str:
    """What the figures mean, and no more, in a few sentences."""
    gap, true, difference = similar.gap, signal.direction.true, signal.direction.difference
    side = "above" if gap.value >= 0 else "below"
    alike = (
        f"MS-SSIM within classes is {_number('', abs(gap.value))} {side} that across (95% interval of the difference "
        f"{_interval(gap.low, gap.high)})" + (": no difference is shown." if gap.low <= 0 <= gap.high else ".")
    )
    if difference.low > 0:
        steps = f"{1 / true.value:.0f}" if true.value < 0.5 else f"{1 / true.value:.1f}"
        found = (
            "The direction of the contrast's gradient has a signal that permuted labels do not have: in the mean of "
            f"{steps} steps, each scaled to length 1, it is as large as the noise."
        )
    else:
        found = (
            "No class signal is shown in the direction of the contrast's gradient: true labels cannot be told from "
            f"permuted ones. The ratio is below {_number('', max(true.high, 0.0))} with 97.5% confidence"
        )
        found += f", less than one part of signal in {1 / true.high:.0f} of noise." if 0 < true.high < 1 else "."
    return (
        f"{alike} {found} This holds for the mask network at its start, on these images without augmentation; whether "
        "training or accuracy gains by it, it does not say."
    )


def as_json(similar: Similarities, signal: GradientSignal) -> dict[str, Any]:
    """Every estimate with its interval, in JSON's types."""
    ends = ("value", "low", "high")

    def plain(estimate: Estimate) -> dict[str, float]:
        return {name: value for name, value in asdict(estimate).items() if name in ends}

    def ratios(of: Ratios) -> dict[str, Any]:
        return {name: plain(getattr(of, name)) for name in ("true", "shuffled", "difference")} | {
            "shuffles": [plain(each) for each in of.shuffles]
        }

    return {
        "similarity": {name: plain(getattr(similar, name)) for name in ("within", "across", "gap")},
        "signal_to_noise": {kind: ratios(getattr(signal, kind)) for kind in ("gradient", "direction")},
        "largest_squared_norm": signal.largest,
        "without_gradient": dict(zip(("positive", "negative"), signal.without_gradient, strict=True)),
        "anchors_with_a_positive": signal.positives,
    }


def picture(title: str, similar: Similarities, signal: GradientSignal) -> bytes:
    """A PNG: the distributions of similarities within and across classes, and the signal-to-noise ratios."""
    from matplotlib.figure import Figure  # by itself it needs no display, and pyplot's global state stays as it is

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    kinds = [("within classes", similar.within_pairs, similar.within, _TRUE)]
    kinds += [("across classes", similar.across_pairs, similar.across, _OTHER)]
    most = max(np.quantile(pairs.similarity, 0.995) for _, pairs, _, _ in kinds)
    bins = np.linspace(0, max(float(most), 1e-6), 41)
    for name, pairs, mean, colour in kinds:
        values = pairs.similarity.clip(max=bins[-1])
        label = f"{name}, mean {mean.value:.3f}"
        weights = np.full(len(values), 1 / len(values))
        left.hist(values, bins, weights=weights, histtype="step", linewidth=1.5, color=colour, label=label)
        left.axvspan(mean.low, mean.high, color=colour, alpha=0.2, linewidth=0)
    left.set(xlabel="MS-SSIM of a pair; shaded, the mean's interval", ylabel="share of pairs", xlim=(0, bins[-1]))
    left.legend(frameon=False)
    for start, ratios in ((0, signal.gradient), (2, signal.direction)):
        for place, each, colour in ((start, ratios.true, _TRUE), (start + 1, ratios.shuffled, _OTHER)):
            ends = [[each.value - each.low], [each.high - each.value]]
            right.errorbar([place], [each.value], yerr=ends, fmt="o", color=colour, capsize=4, zorder=3)
        places = start + np.linspace(0.8, 1.2, len(ratios.shuffles) + 2)[1:-1]
        right.plot(places, [each.value for each in ratios.shuffles], "x", color=_INK, markersize=4, alpha=0.7)
    right.axhline(0, color=_INK, linewidth=0.8)
    right.set(xlim=(-0.6, 3.6), ylabel="signal-to-noise ratio of a step", xlabel="crosses: each shuffle of the labels")
    names = [f"{labels}\n{kind}" for kind in ("gradients", "directions") for labels in ("true", "shuffled")]
    right.set_xticks(range(4), names, fontsize="small")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, fontsize="medium", parse_math=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()


def _number(name: str, value: float) -> str:
    if "pairs" in name or "anchors" in name or "share" in name:
        return f"{100 * value:.1f}%"
    return f"{value:.3f}" if abs(value) >= 0.01 or value == 0 else f"{value:.2g}"


def _interval(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{_number('', low)} to {_number('', high)}"
