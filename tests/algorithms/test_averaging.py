"""Feature averaging: an option of every method's predict."""

from __future__ import annotations

import pytest
import torch

from cim_dg.algorithms import REGISTRY, Algorithm
from cim_dg.images.colours import CENTRE, change_colours, draw_colours

METHODS = ["ERM", "GroupDRO", "VIB", "SCL", "CCSA", "DCoDR", "TransformInvariance", "CIM", "CIM_VIB"]


def features_of(method: Algorithm, x: torch.Tensor) -> torch.Tensor:
    """What comes before the classifier: the bottleneck's mean where there is one."""
    return getattr(method.classifier, "bottleneck", lambda f: (f,))(method.encode(x))[0]


@pytest.mark.parametrize("name", METHODS)
def test_against_a_naive_loop(make, batch, name):
    method = make(name, average_copies=3, average_strength=0.8).eval()
    colours = draw_colours(3, strength=0.8, generator=torch.Generator().manual_seed(0))
    means = []
    for image in batch.x[:4]:
        copies = [change_colours(image[None], colour[None]) for colour in colours]
        means.append(torch.stack([features_of(method, copy) for copy in copies]).mean(dim=0))
    last = getattr(method.classifier, "classifier", method.classifier)
    torch.testing.assert_close(method.predict(batch.x[:4]), last(torch.cat(means)), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", METHODS)
def test_off_by_default_in_evaluation_only_and_the_same_for_an_image_in_any_batch(make, batch, name):
    plain, averaging = make(name).eval(), make(name, average_copies=2).eval()
    assert not plain.averages and averaging.averages
    state = torch.get_rng_state()
    whole = averaging.predict(batch.x)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.allclose(whole, plain.predict(batch.x), atol=1e-4)
    torch.testing.assert_close(averaging.predict(batch.x.flip(0)[:5]), whole.flip(0)[:5], atol=1e-5, rtol=1e-4)
    # Neither the training objective nor the logits of a forward pass change.
    torch.testing.assert_close(averaging(batch).logits, plain(batch).logits, atol=0, rtol=0)
    if "VIB" not in name:  # which samples its code in training
        assert torch.equal(averaging.train().predict(batch.x), plain.train().predict(batch.x))


def test_copies_without_another_colour_change_nothing(make, batch):
    given = make("CIM").eval().predict(batch.x)
    averaged = make("CIM", average_copies=2, average_strength=0.0).eval().predict(batch.x)
    torch.testing.assert_close(averaged, given, atol=1e-4, rtol=1e-4)


def test_every_registered_method_has_the_option():
    from cim_dg.hparams import complete

    for name in REGISTRY:
        assert complete(name, {"average_copies": 5})["average_copies"] == 5


def test_colours_are_drawn_within_reach_of_no_change():
    drawn = draw_colours(1000, 2, strength=0.5, generator=torch.Generator().manual_seed(0))
    assert drawn.shape == (1000, 2, 4)
    low, high = drawn.flatten(0, 1).amin(dim=0), drawn.flatten(0, 1).amax(dim=0)
    torch.testing.assert_close(low, torch.tensor([0.6, 0.6, 0.6, -0.1]), atol=0.01, rtol=0)
    torch.testing.assert_close(high, torch.tensor([1.4, 1.4, 1.4, 0.1]), atol=0.01, rtol=0)
    x = torch.rand(2, 3, 5, 5)
    torch.testing.assert_close(change_colours(x, torch.tensor([CENTRE, CENTRE])), x, atol=1e-6, rtol=0)
