from __future__ import annotations

import importlib
import math

import pytest
import torch

from cim_dg.errors import RunError, UserError

OURS = ["VIB", "SCL", "CCSA", "DCoDR", "TransformInvariance", "CIM", "CIM_VIB"]
domainbed = importlib.import_module  # the stand-in, or a real one if the tests run beside it


def make(name, dataset="NuisanceDigits", seed=None, shape=(3, 36, 36), **override):
    registry = domainbed("domainbed.hparams_registry")
    hparams = registry.default_hparams(name, dataset) if seed is None else registry.random_hparams(name, dataset, seed)
    torch.manual_seed(0)
    return domainbed("domainbed.algorithms").get_algorithm_class(name)(shape, 10, 2, hparams | override)


def minibatches(n=8, shape=(3, 36, 36), seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [(torch.rand(n, *shape, generator=generator), torch.randint(3, (n,), generator=generator)) for _ in range(2)]


@pytest.mark.parametrize("name", ["ERM", "GroupDRO", *OURS])
def test_update_gives_plain_floats_and_learns(name):
    algorithm = make(name)
    batch = minibatches()
    losses = [algorithm.update(batch) for _ in range(25)]
    assert all(type(value) is float and math.isfinite(value) for terms in losses for value in terms.values())
    key = "supervised" if "supervised" in losses[0] else "loss"
    assert losses[-1][key] < losses[0][key]
    algorithm.eval()
    assert algorithm.predict(batch[0][0]).shape == (8, 10)


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("seed", [None, 1, 2])
def test_a_checkpoint_is_read_by_torch_load_as_it_is_by_default(name, seed, tmp_path):
    algorithm = make(name, seed=seed)
    algorithm.update(minibatches())
    torch.save({"model_hparams": algorithm.hparams, "model_dict": algorithm.state_dict()}, tmp_path / "model.pkl")
    read = torch.load(tmp_path / "model.pkl")
    other = domainbed("domainbed.algorithms").get_algorithm_class(name)((3, 36, 36), 10, 2, read["model_hparams"])
    other.load_state_dict(read["model_dict"])
    x = minibatches()[0][0]
    assert torch.equal(other.eval().predict(x), algorithm.eval().predict(x))


@pytest.mark.parametrize("shape", [(2, 28, 28), (1, 28, 28), (5, 36, 36), (3, 20, 33)])
def test_any_number_of_channels_and_small_sides(shape):
    algorithm = make("CIM", "ColoredMNIST", shape=shape)
    assert math.isfinite(algorithm.update(minibatches(shape=shape))["loss"])


def test_a_loss_that_is_no_number_stops_the_run_with_its_step_and_terms():
    algorithm = make("CIM")
    algorithm.update(minibatches())
    bad = [(x * float("nan"), y) for x, y in minibatches()]
    with pytest.raises(RunError, match=r"CIM stopped at step 1: loss is nan, supervised is nan"):
        algorithm.update(bad)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"cim_lamda": 1.0}, "unknown hyper-parameter 'cim_lamda' for CIM; valid names are .*cim_lambda.*resnet18"),
        ({"vib_beta": 1.0}, "unknown hyper-parameter 'vib_beta' for CIM"),
        ({"cim_lambda": "big"}, "cim_lambda is 'big'; accepted is a number"),
        ({"bf16": "yes"}, "bf16 is 'yes'; accepted is true or false"),
        ({"pixel_space": "imagnet"}, "pixel_space is 'imagnet'; accepted is one of unit"),
    ],
)
def test_bad_hparams_are_refused(override, message):
    with pytest.raises(UserError, match=message):
        make("CIM", **override)


def test_inputs_that_are_no_images_are_refused():
    with pytest.raises(UserError, match=r"CIM takes images \(C, H, W\); this dataset's inputs are \(7,\)"):
        make("CIM", shape=(7,))


def test_pixel_space_follows_the_dataset():
    registry = domainbed("domainbed.hparams_registry")
    spaces = {
        d: registry.default_hparams("CIM", d)["pixel_space"]
        for d in ("VLCS", "ColoredMNIST", "Debug28", "NuisanceDigits")
    }
    assert spaces == {"VLCS": "imagenet", "ColoredMNIST": "unit", "Debug28": "standard", "NuisanceDigits": "unit"}


@pytest.mark.parametrize("name", ["SCL", "CCSA", "DCoDR", "TransformInvariance", "CIM_VIB"])
def test_bf16_trains_and_predicts_in_float32(name):
    algorithm = make(name, bf16=True, average_copies=2)
    assert all(math.isfinite(value) for value in algorithm.update(minibatches()).values())
    assert algorithm.eval().predict(minibatches()[0][0]).dtype == torch.float32


def test_what_only_predicts_makes_no_optimiser():
    algorithm = make("CIM")
    algorithm.eval().predict(minibatches()[0][0])
    assert "optimizer" not in vars(algorithm)
    algorithm.train().update(minibatches())
    trained = {id(p) for group in vars(algorithm)["optimizer"].param_groups for p in group["params"]}
    assert trained == {id(parameter) for parameter in algorithm.parameters()}


def test_feature_averaging_is_an_option_of_predict():
    x = minibatches()[0][0]
    plain, averaging = make("SCL").eval(), make("SCL", average_copies=2).eval()
    assert torch.equal(averaging.predict(x), averaging.predict(x))
    assert not torch.allclose(averaging.predict(x), plain.predict(x), atol=1e-4)
    with pytest.raises(UserError, match="average_copies is -1; accepted is a whole number of at least 0"):
        make("SCL", average_copies=-1)


def test_few_positives_are_worth_a_warning_once():
    algorithm = make("CIM")
    batch = [(x, torch.arange(8) if d else torch.zeros(8, dtype=torch.int64)) for d, (x, _) in enumerate(minibatches())]
    alone = [(x[:4], torch.arange(4) + 4 * d) for d, (x, _) in enumerate(batch)]
    with pytest.warns(UserWarning, match="CIM: only 0% of the anchors had another image of their class") as caught:
        for _ in range(30):
            algorithm.update(alone)
    assert len([w for w in caught if "anchors" in str(w.message)]) == 1


def test_hparams_are_plain_and_ours_are_bounded_on_our_datasets():
    registry = domainbed("domainbed.hparams_registry")
    for seed in range(20):
        hparams = registry.random_hparams("CIM_VIB", "NuisanceDigits", seed)
        assert all(type(v) in (float, int, bool, str, type(None)) for v in hparams.values())
        assert hparams["batch_size"] <= 120
        for name in ("ERM", "GroupDRO"):
            assert registry.random_hparams(name, "NuisanceDigits", seed)["batch_size"] == hparams["batch_size"]


def test_upstream_algorithms_keep_their_hparams():
    registry = domainbed("domainbed.hparams_registry")
    assert not {"pixel_space", "bf16"} & set(registry.default_hparams("ERM", "VLCS"))
