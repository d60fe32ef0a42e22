from __future__ import annotations

from pathlib import Path

import pytest
import torch
import wilds

from cim_dg.errors import UserError
from cim_dg.wilds.evaluation import make_report

NAMES = ["a", "b", "c"]


def test_by_hand_with_an_empty_group() -> None:
    y_true = torch.tensor([0, 0, 0, 0, 1, 1])
    y_pred = torch.tensor([0, 0, 0, 1, 1, 0])
    groups = torch.tensor([0, 0, 0, 0, 2, 2])
    report = make_report(y_pred, y_true, groups, NAMES, shares=[0.6, 0.3, 0.1])
    assert report.average == pytest.approx(4 / 6)
    assert report.worst_class == 0.5
    assert report.worst_group == 0.5
    assert [(g.name, g.count, g.accuracy) for g in report.groups] == [("a", 4, 0.75), ("b", 0, None), ("c", 2, 0.5)]
    # Group b is left out and the other shares are brought to a sum of 1.
    assert report.adjusted_average == pytest.approx((0.6 * 0.75 + 0.1 * 0.5) / 0.7)


def test_an_ignored_group_is_reported_but_never_the_worst() -> None:
    y = torch.tensor([0, 1, 1])
    report = make_report(torch.tensor([0, 0, 1]), y, torch.tensor([0, 1, 2]), NAMES, ignored=["b"])
    assert report.worst_group == 1.0
    assert report.groups[1].accuracy == 0.0


def test_selection_rules() -> None:
    y_true, groups = torch.tensor([0, 0, 0, 1]), torch.tensor([0, 1, 1, 1])
    report = make_report(torch.tensor([1, 0, 0, 1]), y_true, groups, ["a", "b"])
    assert report.select("average") == 0.75
    assert report.select("worst-class") == pytest.approx(2 / 3)
    assert report.select("worst-group") == 0.0
    assert report.select("macro-f1") == pytest.approx((0.8 + 2 / 3) / 2)  # F1 of class 0 is 4/5, of class 1 2/3
    with pytest.raises(UserError, match="needs groups"):
        make_report(y_true, y_true).select("worst-group")


@pytest.mark.parametrize("name", ["waterbirds", "celebA", "camelyon17", "fmow", "rxrx1"])
def test_groups_are_those_of_the_packages_own_evaluation(name: str, small_root: Path) -> None:
    from cim_dg.wilds.config import read_defaults
    from cim_dg.wilds.data import grouper

    dataset = wilds.get_dataset(name, root_dir=str(small_root))
    defaults = read_defaults(name)
    grouping = grouper(dataset, defaults["report_groups"])
    names = [grouping.group_field_str(g) for g in range(grouping.n_groups)]
    # The published average of Waterbirds is weighted by the sizes of its training groups.
    shares = [s / 4795 for s in (3498, 184, 56, 1057)] if name == "waterbirds" else None
    if shares is not None:
        order = ["y:landbird_background:land", "y:landbird_background:water"]
        order += ["y:waterbird_background:land", "y:waterbird_background:water"]
        shares = [shares[order.index(name)] for name in names]
    for split in dataset.split_dict:
        subset = dataset.get_subset(split)
        y_pred = torch.randint(0, 2, subset.y_array.shape, generator=torch.Generator().manual_seed(1))
        results, _ = dataset.eval(y_pred, subset.y_array, subset.metadata_array)
        groups = grouping.metadata_to_group(subset.metadata_array)
        report = make_report(y_pred, subset.y_array, groups, names, defaults.get("ignored_groups", ()), shares)
        assert report.worst_group == pytest.approx(results["acc_worst_region" if name == "fmow" else "acc_wg"])
        for group in report.groups:
            assert results[f"count_{group.name}"] == group.count
            assert results[f"acc_{group.name}"] == pytest.approx(group.accuracy or 0.0)
        if name == "waterbirds":
            assert report.adjusted_average == pytest.approx(results["adj_acc_avg"])
        else:
            assert report.average == pytest.approx(results["acc_avg"])


def test_macro_f1_is_that_of_iwildcams_own_evaluation(small_root: Path) -> None:
    """Classes that no image has do not count, also if they are predicted."""
    dataset = wilds.get_dataset("iwildcam", root_dir=str(small_root))
    for split in dataset.split_dict:
        subset = dataset.get_subset(split)
        y_pred = torch.randint(0, 6, subset.y_array.shape, generator=torch.Generator().manual_seed(2))
        results, _ = dataset.eval(y_pred, subset.y_array, subset.metadata_array)
        assert make_report(y_pred, subset.y_array).macro_f1 == pytest.approx(results["F1-macro_all"])
