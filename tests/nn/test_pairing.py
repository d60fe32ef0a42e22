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
        positive, negative = choose_pairs(Y, torch.arange(7), generator_free=generator_free)[:, 0]
        for i in range(7):
            if Y.tolist().count(int(Y[i])) == 1:
                assert positive[i] == -1
            else:
                assert positive[i] != i and Y[positive[i]] == Y[i]
            assert Y[negative[i]] != Y[i]


def test_every_candidate_is_drawn_about_as_often():
    torch.manual_seed(0)
    drawn = torch.stack([choose_pairs(Y, torch.tensor([0])) for _ in range(3000)])[:, :, 0, 0]
    for column, candidates in ((0, [2, 5]), (1, [1, 3, 4, 6])):
        counts = torch.bincount(drawn[:, column], minlength=7)
        assert counts[[i for i in range(7) if i not in candidates]].sum() == 0
        assert (counts[candidates] / 3000 - 1 / len(candidates)).abs().max() < 0.04


def test_preferences_hold_where_they_can():
    torch.manual_seed(0)
    for _ in range(20):
        positive, negative = choose_pairs(Y, torch.arange(7), DOMAIN, "other_domain", "same_domain")[:, 0]
        assert positive[0] == 2 and positive[5] == 2 and positive[1] == 4  # the other domain has one
        assert all(DOMAIN[negative[i]] == DOMAIN[i] for i in range(7))  # each domain has another class


def test_one_class_has_no_negative():
    positive, negative = choose_pairs(torch.zeros(3, dtype=torch.int64), torch.tensor([1, 2]))[:, 0]
    assert (positive >= 0).all() and negative.tolist() == [-1, -1]


@pytest.mark.parametrize("count", [2, 4, 10])
@pytest.mark.parametrize("domain", [None, DOMAIN])
def test_several_choices_are_different_and_all_there_are_if_these_are_too_few(count, domain):
    torch.manual_seed(0)
    positives, negatives = ("any", "any") if domain is None else ("other_domain", "same_domain")
    for _ in range(20):
        state = torch.get_rng_state()
        chosen = choose_pairs(Y, torch.arange(7), domain, positives, negatives, count=count)
        torch.set_rng_state(state)
        alone = choose_pairs(Y, torch.arange(7), domain, positives, negatives)
        assert torch.equal(chosen[:, :1], alone), "the first does not depend on the count"
        assert chosen.shape == (2, min(count, 7), 7)
        for i in range(7):
            same = {j for j in range(7) if Y[j] == Y[i] and j != i}
            for kind, candidates in ((0, same), (1, {*range(7)} - same - {i})):
                found = [j for j in chosen[kind, :, i].tolist() if j >= 0]
                assert len(found) == len(set(found)) == min(count, len(candidates)) and set(found) <= candidates
                assert (chosen[kind, len(found) :, i] == -1).all()
                if domain is not None:  # those of the preferred domains come first
                    preferred = [(DOMAIN[j] == DOMAIN[i]).item() == (kind == 1) for j in found]
                    assert preferred == sorted(preferred, reverse=True)


def test_each_set_of_several_is_drawn_about_as_often():
    torch.manual_seed(0)
    drawn = [frozenset(choose_pairs(Y, torch.tensor([0]), count=3)[1, :, 0].tolist()) for _ in range(2000)]
    assert len(set(drawn)) == 4  # three of 1, 3, 4 and 6
    assert all(abs(drawn.count(each) / 2000 - 1 / 4) < 0.05 for each in set(drawn))


def test_several_without_a_generator_are_the_next_in_the_order_of_the_batch():
    chosen = choose_pairs(Y, torch.tensor([2]), generator_free=True, count=4)[:, :, 0]
    assert chosen.tolist() == [[5, 0, -1, -1], [3, 4, 6, 1]]
