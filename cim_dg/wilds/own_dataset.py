"""The user's registered datasets (`cim_dg.data.own`) as datasets of the package `wilds`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from wilds.common.grouper import CombinatorialGrouper
from wilds.common.metrics.all_metrics import Accuracy
from wilds.datasets.wilds_dataset import WILDSDataset

from cim_dg.data import own
from cim_dg.errors import UserError
from cim_dg.images.reading import read_image


class OwnDataset(WILDSDataset):
    """A dataset with the splits of metadata.csv. Its metadata are the domain, the group columns and y.

    Args:
        dataset: the registered dataset.
        root_dir: not used, because the registration has the dataset's folder.
        download: must be false.

    Raises:
        UserError: metadata.csv was changed, or an option is given that such a dataset does not have.
    """

    def __init__(
        self,
        dataset: own.OwnDataset,
        root_dir: str,
        version: str | None = None,
        download: bool = False,
        split_scheme: str = "official",
    ) -> None:
        if download or version is not None or split_scheme != "official":
            raise UserError(f"{dataset.name} is a dataset of your own: it has no download, no version, no split_scheme")
        self._own = dataset
        table = _table(dataset)
        values = {"domain": dataset.domains, **{name: sorted(set(table[name])) for name in dataset.groups}}
        self._dataset_name, self._version, self._data_dir = dataset.name, None, dataset.folder
        self._split_scheme = split_scheme
        self._split_dict = {split: number for number, split in enumerate(dataset.splits)}
        self._split_names = {split: split for split in dataset.splits}
        self._split_array = np.array([self._split_dict[split] for split in table["split"]])
        self._input_array = [str(Path(dataset.folder, name)) for name in table["filename"]]
        self._y_array = torch.tensor([dataset.classes.index(label) for label in table["class"]])
        self._y_size, self._n_classes = 1, len(dataset.classes)
        self._metadata_fields = [*values, "y"]
        columns = [torch.tensor([names.index(value) for value in table[name]]) for name, names in values.items()]
        self._metadata_array = torch.stack([*columns, self._y_array], dim=1)
        self._metadata_map: dict[str, Any] = {**values, "y": dataset.classes}
        super().__init__(root_dir, download, split_scheme)
        self._eval_grouper = CombinatorialGrouper(self, [*(dataset.groups or ["domain"]), "y"])

    def get_input(self, idx: int) -> Any:
        """The image in RGB."""
        return read_image(Path(self._input_array[idx]))

    def eval(self, y_pred: Tensor, y_true: Tensor, metadata: Tensor) -> tuple[dict[str, float], str]:
        """The average accuracy, that of each group, and the worst, from predicted and true classes (N,)."""
        return self.standard_group_eval(Accuracy(), self._eval_grouper, y_pred, y_true, metadata)


def _table(dataset: own.OwnDataset) -> pd.DataFrame:
    file = Path(dataset.folder, own.METADATA)
    try:
        table = pd.read_csv(file, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise UserError(f"{file} of {dataset.name} cannot be read: {' '.join(str(error).split())}") from None
    accepted = {"filename": None, "class": dataset.classes, "domain": dataset.domains, "split": dataset.splits}
    for column in (*accepted, *dataset.groups):
        if column not in table.columns:
            raise UserError(f"{file} has no column {column!r}; register {dataset.name} again")
        names = accepted.get(column)
        if names is not None and (unknown := sorted(set(table[column]) - set(names))):
            raise UserError(f"{file} has {column} {unknown[0]!r}; registered are {', '.join(names)}")
    return table
