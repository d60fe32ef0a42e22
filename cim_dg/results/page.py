"""The comparison as one self-contained HTML page: tables, plots, morph pictures and the provenance of every run."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from importlib import resources

import jinja2

import cim_dg
from cim_dg.results import aggregates, audit, curves, disagreement, fit, plots, protocols, run_facts, thumbnails
from cim_dg.results.build import Report
from cim_dg.results.grids import Grid, grids
from cim_dg.results.morphs import Picture, morph_pictures
from cim_dg.results.records import Records
from cim_dg.results.tables import Table
from cim_dg.results.thumbnails import Thumbnail

# Characters that fit in a line of a table, whose padding takes some too.
_DESKTOP, _PHONE = 150, 50


@dataclass(frozen=True)
class _Plot:
    """An image with its alternative text."""

    caption: str
    alt: str
    source: str  # a data: URL


def render(report: Report, show_images: bool = False) -> str:
    """The page. It loads nothing from elsewhere.

    Args:
        report: what it shows.
        show_images: whether to show pictures of the images on which methods disagree, where their dataset is there.
    """
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(
        resources.files("cim_dg.results").joinpath("page.html.j2").read_text(encoding="utf-8")
    )
    return template.render(
        version=cim_dg.__version__,
        sections=[
            (table, grids(table), _plots(table, report), *folded)
            for table, folded in zip(report.tables, _disagreements(report, show_images), strict=True)
        ],
        aggregates=[
            (aggregate.title, [aggregates.grid(aggregate)], _over_datasets(aggregate))
            for aggregate in report.over_datasets
        ],
        left_out=report.left_out,
        best=report.best,
        findings=audit.findings(report),
        notes=audit.notes(report),
        pictures=_pictures(report),
        groups=run_facts.groups(report.records.runs) if report.records else [],
        runs=len(report.records.runs) if report.records else 0,
        is_number=_is_number,
        wide=_wide,
    )


def _plots(table: Table, report: Report) -> list[_Plot]:
    same = "The figures are in the table above."
    candidates = [
        (
            "Accuracy with 95% intervals",
            f"Dot plot of the accuracy of each method in {_list(table)}. {same}",
            plots.accuracies(table),
        ),
        (
            f"Difference to {table.baseline}{_paired(table)}, with 95% intervals",
            f"Dot plot of each method's difference to {table.baseline} in {_list(table)}. {same}",
            plots.differences(table),
        ),
        *_of_runs(table, report.records),
        (
            "Worst group against average accuracy (published figures hollow)",
            f"Scatter plot of worst-group against average accuracy. {same}",
            plots.worst_against_average(table),
        ),
    ]
    return [
        _Plot(caption, alt, _data("image/svg+xml", svg.encode())) for caption, alt, svg in candidates if svg is not None
    ]


def _disagreements(report: Report, show_images: bool) -> list[tuple[Grid | None, list[_Plot]]]:
    """For each table, the images on which two of its methods disagree, and pictures of them if asked for."""
    records = report.records
    if records is None:
        return [(None, []) for _ in report.tables]
    found = [disagreement.pairs(table, protocols.of(records, table.protocol)) for table in report.tables]
    made = [disagreement.grid(table, pairs) for table, pairs in zip(report.tables, found, strict=True)]
    if not show_images:
        return [(grid, []) for grid in made]
    shown = thumbnails.thumbnails([disagreement.named(pairs) for pairs in found], records)
    return [(grid, [_thumbnail(one) for one in of_table]) for grid, of_table in zip(made, shown, strict=True)]


def _thumbnail(one: Thumbnail) -> _Plot:
    caption = f"{one.image.domain} {one.image.number}, class {one.image.label}"
    return _Plot(caption, f"The image {caption}.", _data("image/jpeg", one.jpeg))


def _paired(table: Table) -> str:
    return ", paired over trials" if all(comparison.difference.paired for comparison in table.comparisons) else ""


def _over_datasets(aggregate: aggregates.Aggregate) -> list[_Plot]:
    datasets = ", ".join(aggregate.datasets)
    alt = f"Dot plots of each method's mean and probability of improvement over {datasets}, with 95% intervals."
    svg = plots.over_datasets(aggregate).encode()
    return [_Plot(f"Over {datasets}, with 95% intervals", alt, _data("image/svg+xml", svg))]


def _of_runs(table: Table, records: Records | None) -> list[tuple[str, str, str | None]]:
    """Caption, alternative text and picture of the plots that are made of the runs behind the table."""
    if records is None:
        return []
    records = protocols.of(records, table.protocol)
    return [
        (
            "Learning curves of the selected runs: mean, shaded one standard error",
            "Line plots over training, for each method, of the figures of the table above.",
            plots.learning_curves(table, curves.learning(table, records)),
        ),
        (
            "In-domain against out-of-domain accuracy of all checkpoints and settings, on probit axes, with the slope "
            "of each method's line",
            "Scatter plots of out-of-domain against in-domain accuracy; the slopes are in their legends.",
            plots.in_and_out(table, curves.in_and_out(table, records)),
        ),
        (
            "Settings tried against the best found: the expected test figure of the setting that is best on validation",
            "Line plot, for each method, of the expected test figure by the number of settings tried.",
            plots.best_found(table, curves.best_found(table, records)),
        ),
    ]


def _pictures(report: Report) -> list[_Plot]:
    def plot(picture: Picture) -> _Plot:
        return _Plot(
            picture.caption,
            f"Pictures in three rows: images, masks and morphed images. {picture.caption}",
            _data("image/png", picture.png),
        )

    return [plot(picture) for picture in morph_pictures(report.records)] if report.records else []


def _list(table: Table) -> str:
    return ", ".join(table.columns)


def _is_number(grid: Grid, column: int) -> bool:
    return grid.numeric[column]


def _wide(grid: Grid) -> str:
    """Where a table is wider than the page, as a class of the style sheet; empty if nowhere. An estimate."""
    columns = len(grid.header)
    if sum(fit.natural_widths(grid)) + 2.5 * columns > _DESKTOP:
        return "everywhere"
    return "on-phones" if sum(fit.least_widths(grid)) + 2 * columns > _PHONE else ""


def _data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
