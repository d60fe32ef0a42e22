"""Plots of a table as SVG: narrow enough for a phone, with error bars, and with markers as well as colours."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from scipy import special

from cim_dg.results.aggregates import Aggregate
from cim_dg.results.tables import Table

# Okabe and Ito's palette, readable with any colour vision. Black is first, for the baseline.
_COLOURS = ("#000000", "#D55E00", "#0072B2", "#009E73", "#CC79A7", "#8A6D00", "#56B4E9", "#666666")
_MARKERS = ("o", "s", "D", "^", "v", "P", "X", "*")
_WIDTH = 5.2  # inches
_ROW = 0.2
_SVG_DPI, _RASTER_DPI = 72, 100
_PERCENT = (1, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 98, 99, 99.5)


Method = tuple[str, str]  # (method, source)
Points = dict[tuple[str, Method], tuple[float, tuple[float, float] | None]]  # (column, method) -> mean and interval


def accuracies(table: Table) -> str | None:
    """Accuracy per column with 95% intervals; None if no run has one."""
    points = {
        (column, (row.method, row.source)): (cell.mean, cell.interval)
        for row in table.rows
        if not row.published
        for column, cell in row.cells.items()
    }
    return _forest(points, table, "accuracy (%)") if points else None


def differences(table: Table) -> str | None:
    """Paired differences to the baseline with 95% intervals, per column; None if there are none."""
    points = {
        (row.column, (row.method, row.source)): (row.difference.mean, row.difference.interval)
        for row in table.comparisons
    }
    return _forest(points, table, f"difference to {table.baseline} (points)", 0.0) if points else None


def learning_curves(table: Table, curves: pd.DataFrame) -> str | None:
    """A plot per panel of the curves: mean over runs by step, shaded one standard error; None for single steps.

    Args:
        curves: `cim_dg.results.curves.learning`.
    """
    return _lines(table, curves, "epoch" if table.group_labels else "step")


def best_found(table: Table, curves: pd.DataFrame) -> str | None:
    """The expected test figure of the best on validation by the number of settings tried; None for one setting.

    Args:
        curves: `cim_dg.results.curves.best_found`.
    """
    return _lines(table, curves, "settings tried")


def _lines(table: Table, curves: pd.DataFrame, label: str) -> str | None:
    if curves.empty or curves["step"].nunique() < 2:
        return None
    methods, styles = _methods(table), _styles(table)
    titles = list(dict.fromkeys(curves["panel"]))

    def draw(figure: Figure) -> None:
        panels = figure.subplots(len(titles), 1, sharex=True, squeeze=False)[:, 0]
        for axes, title in zip(panels, titles, strict=True):
            for method in methods:
                of_method = (curves["method"] == method[0]) & (curves["source"] == method[1])
                by_step = curves[of_method & (curves["panel"] == title)].groupby("step")["value"]
                mean, error = by_step.mean(), by_step.sem().fillna(0)
                if mean.empty:
                    continue
                look, name = styles[method], _label(method, methods)
                axes.plot(mean.index, mean, label=name, markersize=4, linewidth=1.4, **look)
                axes.fill_between(mean.index, mean - error, mean + error, color=look["color"], alpha=0.12, linewidth=0)
            axes.set_title(title, loc="left", fontsize=10)
            axes.set_ylabel("accuracy (%)")
            axes.grid(color="#dddddd", linewidth=0.6)
        panels[-1].set_xlabel(label)
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper left", ncols=3, frameon=False)

    return _svg(draw, 0.8 + 2.3 * len(titles))


def in_and_out(table: Table, points: pd.DataFrame) -> str | None:
    """Out-of-domain against in-domain accuracy, a plot per panel, with each method's line; None without such points.

    Both axes are on the probit scale, on which Miller et al. 2021, "Accuracy on the Line", find lines; accuracies of 0
    and 1 have no place on it.

    Args:
        points: `cim_dg.results.curves.in_and_out`.
    """
    points = points[points["inside"].between(0, 1, "neither") & points["outside"].between(0, 1, "neither")]
    if len(points) < 2:
        return None
    methods, styles = _methods(table), _styles(table)
    titles = list(dict.fromkeys(points["panel"]))

    def draw(figure: Figure) -> None:
        for axes, title in zip(figure.subplots(len(titles), 1, squeeze=False)[:, 0], titles, strict=True):
            panel = points[points["panel"] == title]
            for method in methods:
                of_method = panel[(panel["method"] == method[0]) & (panel["source"] == method[1])]
                x, y = (special.ndtri(of_method[name].to_numpy()) for name in ("inside", "outside"))
                line = probit_line(x, y)
                name = _label(method, methods) + (f": slope {line[0]:.2f}" if line else "")
                look = styles[method]
                axes.plot(x, y, linestyle="none", markersize=3, alpha=0.5, rasterized=True, label=name, **look)
                if line:
                    ends = np.array([x.min(), x.max()])
                    axes.plot(ends, line[0] * ends + line[1], color=look["color"], linewidth=1.2)
            axes.set_title(title, loc="left", fontsize=10)
            for axis, values in ((axes.xaxis, panel["inside"]), (axes.yaxis, panel["outside"])):
                shown = [tick for tick in _PERCENT if values.min() <= tick / 100 <= values.max()] or [50]
                axis.set_ticks(special.ndtri(np.array(shown) / 100), [f"{tick:g}" for tick in shown])
            axes.set_xlabel("in-domain accuracy (%)")
            axes.set_ylabel("out of domain (%)")
            axes.grid(color="#dddddd", linewidth=0.6)
            axes.legend(fontsize=7, frameon=False)

    return _svg(draw, 3.4 * len(titles))


def probit_line(x: np.ndarray, y: np.ndarray) -> tuple[float, float] | None:
    """Slope and intercept of the least-squares line of points (n,); None for fewer than three, or one x."""
    if len(x) < 3 or np.ptp(x) == 0:
        return None
    slope, intercept = np.polyfit(x, y, 1)
    return float(slope), float(intercept)


def worst_against_average(table: Table) -> str | None:
    """Worst-group against average accuracy, published figures hollow; None if there are no such figures."""
    panels = [column.removesuffix("worst group") for column in table.columns if column.endswith("worst group")]
    names = list(dict.fromkeys(row.method for row in table.rows))
    if not panels:
        return None

    def draw(figure: Figure) -> None:
        grid = figure.subplots(len(panels), 1, squeeze=False)[:, 0]
        for axes, dataset in zip(grid, panels, strict=True):
            for row in table.rows:
                worst, average = (row.cells.get(f"{dataset}{name}") for name in ("worst group", "average"))
                if worst is None or average is None:
                    continue
                look = _style(names.index(row.method))
                filled = {"markerfacecolor": "none"} if row.published else {}
                axes.plot(average.mean, worst.mean, linestyle="none", markersize=7, **look, **filled)
                axes.annotate(
                    row.method, (average.mean, worst.mean), xytext=(6, 3), textcoords="offset points", fontsize=8
                )
            axes.set_title(dataset, loc="left", fontsize=10)
            axes.set_xlabel("average accuracy (%)")
            axes.set_ylabel("worst group (%)")
            axes.margins(0.18)
            axes.grid(color="#dddddd", linewidth=0.6)

    return _svg(draw, 3.6 * len(panels))


def over_datasets(aggregate: Aggregate) -> str:
    """The mean of each method and its probability of improvement over the baseline, with 95% intervals."""
    methods = list(aggregate.means)
    panels = [(aggregate.means, f"{aggregate.kind} (%)")]
    if aggregate.improvements:
        panels.append((aggregate.improvements, f"P(better than {aggregate.baseline})"))

    def draw(figure: Figure) -> None:
        for axes, (estimates, label) in zip(figure.subplots(len(panels), 1, squeeze=False)[:, 0], panels, strict=True):
            for number, method in enumerate(methods):
                if method in estimates:
                    value, low, high = estimates[method]
                    axes.plot((low, high), (number, number), color=_style(number)["color"], linewidth=1.4)
                    axes.plot(value, number, markersize=5.5, linestyle="none", **_style(number))
            axes.set_yticks(range(len(methods)), methods)
            axes.set_ylim(len(methods) - 0.5, -0.5)
            axes.set_xlabel(label)
            axes.grid(axis="x", color="#dddddd", linewidth=0.6)
            if estimates is aggregate.improvements:
                axes.axvline(0.5, color="#444444", linewidth=1, linestyle=":")

    return _svg(draw, len(panels) * (1.0 + _ROW * len(methods)))


def _forest(points: Points, table: Table, label: str, line: float | None = None) -> str:
    """A row for each column and method, with a point and its interval, and optionally a vertical line."""
    columns = [column for column in table.columns if any(key[0] == column for key in points)]
    methods = [method for method in _methods(table) if any(key[1] == method for key in points)]
    styles = _styles(table)
    block = len(methods) + 1

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        named: set[Method] = set()
        for block_number, column in enumerate(columns):
            for number, method in enumerate(methods):
                if (column, method) not in points:
                    continue
                mean, interval = points[column, method]
                y = block_number * block + number
                if interval is not None:
                    axes.plot(interval, (y, y), color=styles[method]["color"], linewidth=1.4)
                name = None if method in named else _label(method, methods)
                named.add(method)
                axes.plot(mean, y, markersize=5.5, linestyle="none", label=name, **styles[method])
        if line is not None:
            axes.axvline(line, color="#444444", linewidth=1, linestyle=":")
        axes.set_yticks([index * block + (block - 2) / 2 for index in range(len(columns))], columns)
        axes.set_ylim(len(columns) * block - 1, -1)
        axes.set_xlabel(label)
        axes.grid(axis="x", color="#dddddd", linewidth=0.6)
        figure.legend(loc="outside upper left", ncols=3, frameon=False)

    return _svg(draw, 1.3 + _ROW * len(columns) * block)


def _methods(table: Table) -> list[Method]:
    return [(row.method, row.source) for row in table.rows if not row.published]


def _styles(table: Table) -> dict[Method, dict[str, Any]]:
    """A colour and a marker for each method, the same in every plot of the table."""
    return {method: _style(number) for number, method in enumerate(_methods(table))}


def _style(number: int) -> dict[str, Any]:
    return {"color": _COLOURS[number % len(_COLOURS)], "marker": _MARKERS[number % len(_MARKERS)]}


def _label(method: Method, methods: Sequence[Method]) -> str:
    """The method's name, with its harness if there are several."""
    return method[0] if len({source for _, source in methods}) == 1 else f"{method[0]} ({method[1]})"


def _svg(draw: Callable[[Figure], None], height: float) -> str:
    out = io.StringIO()
    style = rc_context(
        {
            "svg.fonttype": "none",
            "svg.hashsalt": "cim-dg",
            "font.size": 10,
            "axes.spines.top": False,
            "axes.spines.right": False,
        }
    )
    with style:
        # Laid out as savefig does it (in SVG's dpi), but without a draw before that of the file, which takes as long.
        figure = Figure(figsize=(_WIDTH, height), dpi=_SVG_DPI)
        FigureCanvasSVG(figure)
        draw(figure)
        ConstrainedLayoutEngine().execute(figure)
        figure.savefig(out, format="svg", dpi=_RASTER_DPI, metadata={"Date": None})
    return out.getvalue()
