"""The tables of datasets and of their sources in Markdown, for docs/data.md: `python -m cim_dg.data.table`."""

from __future__ import annotations

from collections.abc import Sequence

from cim_dg.data.catalogue import Dataset, File
from cim_dg.data.command import licence, purpose, size
from cim_dg.data.present import all_datasets


def markdown() -> str:
    """Both tables."""
    datasets = all_datasets()
    lines = ["| dataset | images | download | licence | for |", "|---|---|---|---|---|"]
    lines += [
        f"| {dataset.name}: {dataset.title} | {dataset.images} | {size(dataset)} | {_linked_licence(dataset)} | "
        f"{purpose(dataset)} |"
        for dataset in datasets
    ]
    lines += ["", "| dataset | source | from | tried | note |", "|---|---|---|---|---|"]
    lines += [
        f"| {dataset.name} | {source.type} | {_places(source.files)} | {_yes(source.tried)} | {source.note} |"
        for dataset in datasets
        for source in dataset.sources
    ]
    return "\n".join(lines) + "\n"


def _linked_licence(dataset: Dataset) -> str:
    address = dataset.licence.address
    name = licence(dataset)
    return name.replace(dataset.licence.name, f"[{dataset.licence.name}]({address})") if address else name


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _places(files: Sequence[File]) -> str:
    return "<br>".join(f"`{file.address}`" for file in files) or "`cim-dg data prepare`"


if __name__ == "__main__":
    print(markdown(), end="")
