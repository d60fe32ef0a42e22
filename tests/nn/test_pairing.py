from __future__ import annotations

import pytest
import torch

from cim_dg.nn.pairing import choose_pairs

Y = torch.tensor([0, 1, 0, 2, 1, 0, 3])
DOMAIN = torch.tensor([0, 0, 1, 1, 1, 0, 0])


@pytest.mark.parametrize("generator_free", [True, False])
def test_positives_share_the_class_negatives_do_not_and_nothing_pairs_with_itself(generator_free):
    torch.manual_seed(0)
    for _ in range(20):
        positive, negative = choose_pairs(Y, torch.arange(7), generator_free=generator_free)
        for i in range(7):
            if Y.tolist().count(int(Y[i])) == 1:
                assert positive[i] == -1
            else:
                assert positive[i] != i and Y[positive[i]] == Y[i]
            assert Y[negative[i]] != Y[i]


def test_every_candidate_is_drawn_about_as_often():
    torch.manual_seed(0)
    drawn = torch.stack([choose_pairs(Y, torch.tensor([0])) for _ in range(3000)])[:, :, 0]
    for column, candidates in ((0, [2, 5]), (1, [1, 3, 4, 6])):
        counts = torch.bincount(drawn[:, column], minlength=7)
        assert counts[[i for i in range(7) if i not in candidates]].sum() == 0
        assert (counts[candidates] / 3000 - 1 / len(candidates)).abs().max() < 0.04


def test_preferences_hold_where_they_can():
    torch.manual_seed(0)
    for _ in range(20):
        positive, negative = choose_pairs(Y, torch.arange(7), DOMAIN, "other_domain", "same_domain")
        assert positive[0] == 2 and positive[5] == 2 and positive[1] == 4  # the other domain has one
        assert all(DOMAIN[negative[i]] == DOMAIN[i] for i in range(7))  # each domain has another class


def test_one_class_has_no_negative():
    positive, negative = choose_pairs(torch.zeros(3, dtype=torch.int64), torch.tensor([1, 2]))
    assert (positive >= 0).all() and negative.tolist() == [-1, -1]
