from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import small_datasets
import torch
import wilds
from wilds.common import utils
from wilds.common.metrics.all_metrics import Accuracy

from cim_dg.wilds import compat


def test_group_averages_are_those_of_a_loop() -> None:
    v, g = torch.randn(50, dtype=torch.float64), torch.randint(0, 6, (50,))
    g[g == 2] = 3
    means, counts = compat.avg_over_groups(v, g, 7)
    for group in range(7):
        members = v[g == group]
        assert counts[group] == len(members)
        assert means[group] == pytest.approx(float(members.mean()) if len(members) else 0.0, abs=1e-12)
    assert counts[2] == 0 and counts[6] == 0


def test_group_averages_have_the_gradient_of_means() -> None:
    g = torch.tensor([0, 2, 2, 0, 2])
    v = torch.randn(5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda values: compat.avg_over_groups(values, g, 4)[0], v)


def test_whole_numbers_are_divided_as_torch_scatter_divides_them() -> None:
    means, _ = compat.avg_over_groups(torch.tensor([1, 2, 4]), torch.tensor([0, 0, 1]), 2)
    assert means.tolist() == [1, 4] and means.dtype == torch.int64


def test_autoload_repairs_the_package() -> None:
    assert utils.avg_over_groups is compat.avg_over_groups
    assert "torch_scatter" not in sys.modules
    metrics = Accuracy().compute_group_wise(
        torch.tensor([0, 1, 1]), torch.tensor([0, 0, 1]), torch.tensor([0, 0, 2]), 3
    )
    assert metrics["acc_group:0"] == 0.5 and metrics["acc_group:1"] == 0.0 and metrics["acc_wg"] == 0.5


def test_a_real_torch_scatter_stays_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.machinery.ModuleSpec("torch_scatter", None)
    monkeypatch.setattr(compat.importlib.util, "find_spec", lambda name: spec)
    module = SimpleNamespace(avg_over_groups="the original")
    compat.on_common_utils(module)  # type: ignore[arg-type]
    assert module.avg_over_groups == "the original"


@pytest.mark.parametrize("name", small_datasets.MAKERS)
@pytest.mark.filterwarnings("error:The given NumPy array is not writable")
def test_all_datasets_load_and_evaluate(name: str, small_root: Path) -> None:
    dataset = wilds.get_dataset(name, root_dir=str(small_root))
    for split in dataset.split_dict:
        subset = dataset.get_subset(split)
        results, _ = dataset.eval(subset.y_array, subset.y_array, subset.metadata_array)
        assert max(value for key, value in results.items() if key.startswith(("acc", "adj"))) == 1.0


def test_celeba_at_its_real_size(tmp_path: Path) -> None:
    """pandas reads large tables in pieces, and what comes of that was read-only."""
    small_datasets.celeba(tmp_path, size=202_599, images=False)
    dataset = wilds.get_dataset("celebA", root_dir=str(tmp_path))
    assert len(dataset) == 202_599
    assert dataset.y_array.unique().tolist() == [0, 1]
    assert dataset.metadata_array[:4, :2].tolist() == [[0, 0], [1, 0], [0, 1], [1, 1]]


@pytest.mark.parametrize(("name", "kind"), [("celebA", "CelebADataset"), ("camelyon17", "Camelyon17Dataset")])
@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
def test_what_is_read_is_what_the_package_reads_where_it_can(name: str, kind: str, small_root: Path) -> None:
    """The package's module once more, under a name that no hook knows."""
    place = importlib.util.find_spec(f"wilds.datasets.{name}_dataset")
    assert place is not None and place.origin is not None
    spec = importlib.util.spec_from_file_location("untouched", place.origin)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    original, ours = getattr(module, kind)(root_dir=str(small_root)), wilds.get_dataset(name, root_dir=str(small_root))
    assert torch.equal(original.y_array, ours.y_array)
    assert torch.equal(original.metadata_array, ours.metadata_array)
    assert (original.split_array == ours.split_array).all()
    assert list(original._input_array) == list(ours._input_array)
