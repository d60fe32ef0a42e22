from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from cim_dg.algorithms import Batch
from cim_dg.algorithms.cim import InputMorphing, Morph
from cim_dg.domainbed.datasets import nuisance_environments
from cim_dg.hparams import complete
from cim_dg.nn.perceptual import ms_ssim
from cim_dg.nn.pixels import PixelSpace


def naive_contrast(morph, pairs, distance=True, weight=1.0, margin=None):
    """The mean over anchors with a positive, one pair at a time."""
    terms = []
    for i, (positives, negatives) in enumerate(pairs):
        if not positives:
            continue

        def measure(others, i=i):
            each = [ms_ssim(morph.morphed[i : i + 1], morph.pixels[j : j + 1]).item() for j in others]
            return sum(1 - similarity if distance else similarity for similarity in each) / len(each)

        term = measure(positives) - (weight * measure(negatives) if negatives else 0)
        terms.append(max(term + margin, 0) if margin is not None else term)
    return sum(terms) / len(terms) if terms else 0.0


@pytest.mark.parametrize(
    ("hparams", "naive"),
    [
        ({}, {}),
        ({"cim_contrast": "similarity"}, {"distance": False}),
        ({"cim_negative_weight": 0.3}, {"weight": 0.3}),
        ({"cim_margin": 0.05}, {"margin": 0.05}),
    ],
)
@pytest.mark.parametrize("count", [1, 2, 9])
@pytest.mark.parametrize("labels", [[0, 1, 0, 1, 2, 0], [0, 0, 0], [0, 1, 2]])
def test_contrast_against_one_pair_at_a_time(hparams, naive, labels, count):
    torch.manual_seed(0)
    morphing = InputMorphing(PixelSpace.of("unit", 3), complete("CIM", hparams | {"cim_pairs": count})).eval()
    y = torch.tensor(labels)
    x = torch.rand(len(y), 3, 16, 16)
    morph = morphing(x)
    # In evaluation the partners are the next images in the order of the batch.
    following = [[(i + k) % len(y) for k in range(1, len(y))] for i in range(len(y))]
    pairs = [
        (
            [j for j in order if labels[j] == labels[i]][:count],
            [j for j in order if labels[j] != labels[i]][:count],
        )
        for i, order in enumerate(following)
    ]
    terms = morphing.contrast(morph, Batch(x, y))
    assert terms["contrast"].item() == pytest.approx(naive_contrast(morph, pairs, **naive), abs=1e-5)
    assert terms["positives"].item() == pytest.approx(sum(bool(positives) for positives, _ in pairs) / len(y))
    for kind, name in enumerate(("positive", "negative")):
        each = [ms_ssim(morph.morphed[[i]], morph.pixels[[j]]).item() for i, of in enumerate(pairs) for j in of[kind]]
        assert terms[f"similarity_{name}"].item() == pytest.approx(sum(each) / max(len(each), 1), abs=1e-6)
        assert terms[f"active_{name}"].item() == pytest.approx(sum(s > 0 for s in each) / max(len(each), 1))


def test_psi_is_the_mask_times_the_pixels_and_goes_back_to_the_harness_normalisation(make):
    space = PixelSpace.of("imagenet", 3)
    morphing = InputMorphing(space, complete("CIM", {}))
    pixels = torch.rand(2, 3, 17, 23)
    morph = morphing(space.from_pixels(pixels))
    torch.testing.assert_close(morph.pixels, pixels)
    torch.testing.assert_close(morph.morphed, morph.mask * pixels, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(space.to_pixels(morph.inputs), morph.morphed, atol=1e-6, rtol=1e-5)
    assert morph.mask.shape == (2, 1, 17, 23)


@pytest.mark.parametrize("name", ["CIM", "CIM_VIB"])
def test_loss_is_the_weighted_sum(make, batch, name):
    terms = make(name, cim_lambda=3.0)(batch).terms
    expected = terms["supervised"] + 3.0 * terms["contrast"] + 0.001 * terms.get("kl", torch.tensor(0.0))
    assert terms["loss"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_lambda_zero_leaves_the_diagnostics_and_no_gradient_of_the_contrast(make, batch):
    method = make("CIM", cim_lambda=0.0, cim_supervise_mask=False)
    terms = method(batch).terms
    terms["loss"].backward()
    assert terms["similarity_positive"] > 0
    assert all(p.grad is None or not p.grad.any() for p in method.morphing.parameters())


def test_the_cross_entropy_trains_the_mask_unless_told_not_to(make, batch):
    method = make("CIM", cim_lambda=0.0)
    method(batch).terms["loss"].backward()
    assert any(p.grad.any() for p in method.morphing.parameters())


@pytest.mark.parametrize(
    ("channels", "masks", "expected"), [(3, "each", 3), (3, "one", 1), (5, "each", 5), (2, "one", 1)]
)
def test_mask_channels_and_any_number_of_image_channels(make, channels, masks, expected):
    method = make("CIM", channels=channels, cim_mask_channels=masks)
    morph = method.morph(torch.rand(2, channels, 20, 20))
    assert morph.mask.shape == (2, expected, 20, 20)
    assert (morph.mask > 0).all() and (morph.mask < 1).all()


def test_images_are_compared_at_the_working_size():
    """The contrast of images of 32 pixels compared at 16 is that of the images at 16; smaller ones stay as they are."""
    torch.manual_seed(0)
    small, large = (
        InputMorphing(PixelSpace.of("unit", 3), complete("CIM", {"cim_contrast_side": side})).eval()
        for side in (16, None)
    )
    y = torch.tensor([0, 1, 0, 1])
    morph = large(torch.rand(4, 3, 32, 40))
    halved = Morph(*(F.avg_pool2d(each, 2) for each in (morph.pixels, morph.mask, morph.morphed, morph.inputs)))
    for given, expected in ((morph, halved), (halved, halved)):
        batch, at_16 = Batch(given.inputs, y), Batch(expected.inputs, y)
        assert small.contrast(given, batch)["contrast"].item() == pytest.approx(
            large.contrast(expected, at_16)["contrast"].item(), abs=1e-6
        )


def test_aligned_images_are_compared_where_they_fit_the_morph():
    """The contrast of digits that are each moved elsewhere is that of digits in one place, up to the border."""
    torch.manual_seed(0)
    digits, y = torch.rand(2, 1, 14, 14).repeat(2, 1, 1, 1), torch.tensor([0, 1, 0, 1])
    places = [(5, 5), (3, 6), (7, 4), (5, 8)]
    together = F.pad(digits, (5, 5, 5, 5))
    apart = torch.stack([F.pad(d, (x, 10 - x, y, 10 - y)) for d, (y, x) in zip(digits, places, strict=True)])
    values = {}
    for name, images, align in (("together", together, 0), ("aligned", apart, 4), ("apart", apart, 0)):
        morphing = InputMorphing(PixelSpace.of("unit", 1), complete("CIM", {"cim_align": align})).eval()
        mask = torch.full_like(images, 0.9)
        morph = Morph(images, mask, mask * images, mask * images)
        values[name] = morphing.contrast(morph, Batch(images, y))["similarity_positive"].item()
    assert values["apart"] < 0.5
    assert values["together"] > 0.95 and values["aligned"] > 0.95


@pytest.mark.parametrize(
    "hparams", [{"cim_normalize": "simple"}, {"cim_contrast_side": 9}, {"cim_pairs": 2}, {"cim_align": 3}]
)
def test_the_gradient_of_the_contrast_by_finite_differences(hparams):
    torch.manual_seed(0)
    morphing = InputMorphing(PixelSpace.of("unit", 1), complete("CIM", hparams)).eval()
    pixels, y = torch.rand(4, 1, 18, 18, dtype=torch.float64), torch.tensor([0, 1, 0, 0])

    def contrast(mask):
        morph = Morph(pixels, mask, mask * pixels, mask * pixels)
        return morphing.contrast(morph, Batch(pixels, y))["contrast"]

    mask = torch.rand(4, 1, 18, 18, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(contrast, (mask,), fast_mode=True)


def test_the_gradient_through_a_mask_at_a_working_size_by_finite_differences():
    torch.manual_seed(0)
    morphing = InputMorphing(PixelSpace.of("unit", 1), complete("CIM", {"cim_mask_side": 9})).double().eval()
    y = torch.tensor([0, 1, 0])

    def loss(x):
        return morphing.contrast(morphing(x), Batch(x, y))["contrast"]

    x = torch.rand(3, 1, 20, 18, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(loss, (x,), fast_mode=True)
    assert morphing(x).mask.shape == (3, 1, 20, 18)


def test_pairs_without_a_gradient_are_counted_and_the_simple_normalisation_has_none():
    torch.manual_seed(0)
    pixels, y = torch.rand(4, 1, 18, 18), torch.tensor([0, 0, 1, 1])
    pixels[1] = 1 - pixels[0]  # of one class, and without any similarity
    for normalize, active in (("relu", 0.5), ("simple", 1.0)):
        morphing = InputMorphing(PixelSpace.of("unit", 1), complete("CIM", {"cim_normalize": normalize})).eval()
        pixels[3] = 0.8 * pixels[2]  # similar, and not equal, where the gradient is 0 up to rounding
        mask = torch.ones(4, 1, 18, 18, requires_grad=True)
        terms = morphing.contrast(Morph(pixels, mask, mask * pixels, mask * pixels), Batch(pixels, y))
        assert terms["active_positive"] == active
        assert terms["similarity_positive"].item() == pytest.approx(0.5, abs=0.05)
        terms["contrast"].backward()
        assert mask.grad is not None
        without = mask.grad.flatten(1).abs().sum(1) == 0
        assert (1 - without.float().mean()).item() >= active


@pytest.mark.parametrize(
    ("side", "backend", "normalize"),
    [(64, "native", "relu"), (65, "native", "simple"), (180, "pytorch_msssim", "relu")],
)
def test_the_normalisation_is_chosen_by_size(side, backend, normalize):
    pixels, y = torch.rand(2, 1, side, 2 * side), torch.tensor([0, 0])
    pixels[1] = 1 - pixels[0]
    morph = Morph(pixels, pixels, pixels, pixels)
    chosen, explicit = (
        InputMorphing(PixelSpace.of("unit", 1), complete("CIM", {"cim_backend": backend} | extra)).eval()
        for extra in ({}, {"cim_normalize": normalize})
    )
    terms, expected = chosen.contrast(morph, Batch(pixels, y)), explicit.contrast(morph, Batch(pixels, y))
    assert terms["contrast"] == expected["contrast"]
    assert terms["active_positive"] == (normalize == "simple")


def test_at_most_so_many_anchors(make, batch, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "cim_dg.algorithms.cim.pair_similarities",
        lambda morphed, *_, **__: seen.append(len(morphed)) or (morphed.mean(dim=(1, 2, 3)).expand(2, -1),) * 2,
    )
    for limit in (5, 0, 100):
        make("CIM", cim_anchors=limit)(batch)
    assert seen == [5, 12, 12]


def test_a_batch_of_one_class_and_a_batch_of_classes_alone(make):
    x = torch.rand(4, 3, 16, 16)
    alone = make("CIM")(Batch(x, torch.arange(4)))
    assert alone.terms["positives"] == 0 and alone.terms["contrast"] == 0
    together = make("CIM")(Batch(x, torch.zeros(4, dtype=torch.int64)))
    assert together.terms["positives"] == 1 and together.terms["similarity_negative"] == 0
    for output in (alone, together):
        output.terms["loss"].backward()


@pytest.mark.parametrize("name", ["CIM", "CIM_VIB"])
def test_on_a_fixed_batch_a_large_lambda_pulls_the_morph_to_its_class(make, name):
    """CIM does what it says: the contrast falls, psi(x) ends nearer to its class, and the mask is not constant."""
    digits = nuisance_environments()[0]
    batch = Batch(digits.images[:24], digits.labels[:24])
    method = make(name, classes=10, cim_lambda=100.0)
    before = method.eval()(batch).terms
    optimizer = torch.optim.Adam(method.parameters(), lr=2e-3)
    for _ in range(80):
        optimizer.zero_grad()
        method.train()(batch).terms["loss"].backward()
        optimizer.step()
    after = method.eval()(batch).terms
    assert after["contrast"] < before["contrast"] - 0.03
    assert after["similarity_positive"] > before["similarity_positive"] + 0.02
    assert after["mask_spread"] > before["mask_spread"] + 0.05


def test_shuffled_labels_pair_images_regardless_of_their_class():
    """The control: with labels 0, 0, 1, 1 each image has one partner of its class; shuffled, it meets every other."""
    torch.manual_seed(0)
    x, y = torch.rand(4, 3, 16, 16), torch.tensor([0, 0, 1, 1])

    def positive_similarities(shuffle):
        morphing = InputMorphing(PixelSpace.of("unit", 3), complete("CIM", {"cim_shuffle_labels": shuffle}))
        with torch.no_grad():
            return {
                round(morphing.contrast(morphing(x), Batch(x, y))["similarity_positive"].item(), 6) for _ in range(30)
            }

    torch.manual_seed(0)
    assert len(positive_similarities(False)) == 1
    assert len(positive_similarities(True)) == 3, "as many as there are ways to pair four images"
