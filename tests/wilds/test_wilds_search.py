"""`--hparams_seed` of the runner: DomainBed's stream, ranges from YAML, and the warning about Waterbirds."""

from __future__ import annotations

import numpy as np
import pytest

from cim_dg.errors import UserError
from cim_dg.hparams import seed_hash
from cim_dg.wilds.config import Config, make_config, read_defaults
from cim_dg.wilds.search import warning


def _config(
    hparams_seed: int, seed: int = 0, dataset: str = "waterbirds", defaults: str | None = None, **more
) -> Config:
    options = {"dataset": dataset, "algorithm": "CIM", "root_dir": ".", "hparams_seed": hparams_seed, "seed": seed}
    return make_config({**options, **more}, defaults)


def test_every_value_has_a_stream_of_its_own_as_in_domainbed() -> None:
    def random(name: str) -> np.random.RandomState:
        return np.random.RandomState(seed_hash(seed_hash(5, 2), name))

    config = _config(5, seed=2)
    assert config.lr == pytest.approx(10 ** random("lr").uniform(-4, -2), rel=1e-15)
    assert config.weight_decay == pytest.approx(10 ** random("weight_decay").uniform(-6, -3), rel=1e-15)
    assert config.batch_size == int(2 ** random("batch_size").uniform(6, 6.75))
    assert config.hparams == {"cim_lambda": pytest.approx(10 ** random("cim_lambda").uniform(0, 1.5), rel=1e-15)}
    assert _config(5, seed=3).lr != config.lr


def test_seed_0_is_the_defaults_and_what_is_given_wins() -> None:
    defaults = read_defaults("waterbirds-group_dro")
    config = _config(0, defaults="waterbirds-group_dro")
    assert (config.lr, config.weight_decay, config.hparams) == (defaults["lr"], defaults["weight_decay"], {})
    config = _config(3, lr=0.5, hparams={"cim_lambda": 2.0})
    assert config.lr == 0.5 and config.hparams == {"cim_lambda": 2.0}
    assert config.weight_decay == _config(3).weight_decay


@pytest.mark.parametrize("dataset", ["waterbirds", "celebA", "camelyon17", "backgrounds"])
def test_drawn_values_stay_in_the_ranges_of_the_file(dataset: str) -> None:
    search = read_defaults(dataset)["search"]
    for seed in range(1, 40):
        config = _config(seed, dataset=dataset)
        for name, distribution in search.items():
            value = getattr(config, name)
            ((kind, bounds),) = distribution.items()
            if kind == "choice":
                assert value in bounds
            else:
                base = 10 if kind == "log10" else 2
                assert base ** bounds[0] - 1 * (name == "batch_size") <= value <= base ** bounds[1]


def test_a_dataset_without_a_search_refuses_a_seed() -> None:
    with pytest.raises(UserError, match="iwildcam has no `search` to draw from; accepted is hparams_seed 0"):
        _config(1, dataset="iwildcam")


def test_the_defaults_that_are_reported_to_predict_one_class_are_warned_of() -> None:
    assert "issue 148" in (warning(vars(_config(0))) or "")
    assert warning(vars(_config(0, defaults="waterbirds-group_dro"))) is None
    assert warning(vars(_config(0, dataset="celebA"))) is None
