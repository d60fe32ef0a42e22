"""Files that are odd in any way end in one sentence, never in a traceback."""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cim_dg.domainbed.standin.hparams_registry import default_hparams, with_overrides
from cim_dg.errors import UserError
from cim_dg.hparams import sample, space
from cim_dg.hparams.space import register
from cim_dg.runtime.bounds import share, whole
from cim_dg.runtime.schema import validated
from cim_dg.runtime.yaml_reader import read_yaml
from cim_dg.sweeps.spec import Spec, load
from cim_dg.wilds.config import FIELDS, defaults_folder, make_config

ROOT = Path(__file__).parents[2]
EXAMPLES = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["", "/", "..", "1e-5"])
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)


def _paths(data: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where in nested dicts and lists a value is, for all of them."""
    inner = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [path, *(below for key, value in inner for below in _paths(value, (*path, key)))]


@st.composite
def damaged(draw: st.DrawFn, files: list[Path]) -> Any:
    """The data of one of the files, with some values replaced, added or removed."""
    data = {"whole": copy.deepcopy(read_yaml(draw(st.sampled_from(files))))}
    for _ in range(draw(st.integers(1, 3))):
        *outer, last = draw(st.sampled_from([path for path in _paths(data) if path]))
        target: Any = data
        for key in outer:
            target = target[key]
        action = draw(st.sampled_from(["replace", "remove", "add"])) if isinstance(target, dict) else "replace"
        if action == "replace" or target is data:
            target[last] = draw(VALUES)
        elif action == "remove":
            del target[last]
        else:
            target[draw(st.text(max_size=8) | st.sampled_from(["include", "random", "variants"]))] = draw(VALUES)
    return data["whole"]


def _search_space(file: Path) -> None:
    register("Damaged", file)
    sample(space("Damaged", "NuisanceDigits"), 3)


def _defaults(file: Path) -> None:
    make_config({"dataset": "waterbirds", "algorithm": "ERM", "root_dir": "."}, str(file))


KINDS: list[tuple[list[Path], Callable[[Path], object]]] = [
    (sorted(ROOT.glob("hparams/*.yaml")), _search_space),
    (sorted(defaults_folder().glob("*.yaml")), _defaults),
    (sorted(ROOT.glob("sweeps/*.yaml")), lambda file: load(str(file), {"n_trials": 2})),
]


def _ends_well(use: Callable[..., object], *arguments: object) -> None:
    """It works, or says in one sentence why not."""
    try:
        use(*arguments)
    except UserError as error:
        assert str(error) and "\n" not in str(error) and "Traceback" not in str(error)


@pytest.mark.parametrize(("files", "use"), KINDS, ids=["hparams", "defaults", "sweeps"])
def test_damaged_files(files: list[Path], use: Callable[[Path], object], tmp_path: Path) -> None:
    @EXAMPLES
    @given(damaged(files))
    def check(data: Any) -> None:
        (tmp_path / "damaged.yaml").write_text(yaml.safe_dump(data), encoding="utf-8")
        _ends_well(use, tmp_path / "damaged.yaml")

    check()


@EXAMPLES
@given(st.binary() | st.text(alphabet="ab:&*[]{}?-|>!<'\"# \n\t%@`1.").map(str.encode))
def test_any_bytes(content: bytes) -> None:
    _ends_well(lambda: read_yaml(content.decode("latin-1")))


@EXAMPLES
@given(damaged(sorted(ROOT.glob("sweeps/*.yaml"))))
def test_any_data_against_a_model(data: Any) -> None:
    _ends_well(validated, Spec, data, "the data")


@EXAMPLES
@given(st.text(max_size=20) | st.dictionaries(st.sampled_from(["lr", "batch_size", "x"]), VALUES).map(json.dumps))
def test_any_overrides_of_hparams(text: str) -> None:
    _ends_well(with_overrides, default_hparams("ERM", "VLCS"), text, "ERM")


@EXAMPLES
@given(st.sampled_from(sorted(FIELDS)), VALUES)
def test_any_option_of_wilds(name: str, value: Any) -> None:
    options = {"dataset": "waterbirds", "algorithm": "ERM", "root_dir": ".", name: value}
    _ends_well(make_config, options)
    _ends_well(make_config, {**options, f"{name}_kwargs": {"x": value}})


@EXAMPLES
@given(st.text(max_size=8) | st.floats().map(str) | st.integers().map(str))
def test_any_text_for_a_number(text: str) -> None:
    with contextlib.suppress(argparse.ArgumentTypeError):
        assert 1 <= whole(1, 9)(text) <= 9
    with contextlib.suppress(argparse.ArgumentTypeError):
        assert 0 < share()(text) < 1
    with contextlib.suppress(argparse.ArgumentTypeError):
        assert 0 <= share(zero=True)(text) < 1


@EXAMPLES
@given(st.floats(allow_nan=False, allow_infinity=False))
def test_floats_stay_what_they_are(value: float) -> None:
    assert validated(float, value, "the value") == value
