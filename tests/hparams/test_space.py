from __future__ import annotations

import json

import pytest

from cim_dg import hparams
from cim_dg.errors import UserError
from cim_dg.hparams.space import read

METHODS = ["ERM", "GroupDRO", "SCL", "VIB", "CCSA", "DCoDR", "TransformInvariance", "CIM", "CIM_VIB"]


@pytest.mark.parametrize("name", [*METHODS, "common", "datasets/NuisanceDigits"])
@pytest.mark.parametrize("dataset", [None, "VLCS", "ColoredMNIST", "NuisanceDigits"])
def test_defaults_and_samples_are_accepted_and_plain(name, dataset):
    entries = hparams.space(name, dataset)
    for values in [hparams.defaults(entries), *(hparams.sample(entries, seed) for seed in range(50))]:
        assert hparams.check(entries, values) == values
        assert json.loads(json.dumps(values)) == values
        assert all(type(value) in (float, int, bool, str, type(None)) for value in values.values())


def test_cim_vib_is_the_two_together():
    assert hparams.space("CIM_VIB") == hparams.space("CIM") | hparams.space("VIB")


def test_every_entry_has_its_line_of_help():
    for name in METHODS:
        assert all(entry.help and "\n" not in entry.help for entry in hparams.space(name).values())


def test_names_carry_the_prefix_of_their_method():
    own = {"CIM": "cim_", "VIB": "vib_", "SCL": "scl_", "GroupDRO": "groupdro_", "CCSA": "ccsa_", "DCoDR": "dcodr_"}
    for name, prefix in own.items():
        assert all(key.startswith((prefix, "average_", "parts_")) for key in hparams.space(name))


def test_dataset_overrides():
    assert hparams.space("common", "VLCS")["pixel_space"].default == "imagenet"
    assert hparams.space("common", "ColoredMNIST")["pixel_space"].default == "unit"
    assert hparams.space("VIB", "VLCS")["vib_dim"].default > hparams.space("VIB", "Debug28")["vib_dim"].default


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"cim_lamda": 1},
            "unknown hyper-parameter 'cim_lamda'; valid names are average_copies, average_strength, cim_align",
        ),
        ({"cim_lambda": "10"}, "cim_lambda is '10'; accepted is a number of at least 0"),
        ({"cim_lambda": -1.0}, "cim_lambda is -1.0; accepted is a number of at least 0"),
        ({"cim_lambda": float("nan")}, "cim_lambda is nan"),
        ({"cim_lambda": float("inf")}, "cim_lambda is inf"),
        ({"cim_margin": float("-inf")}, "cim_margin is -inf"),
        ({"cim_lambda": 10**400}, "cim_lambda is 1000"),
        ({"cim_scales": 10**400}, "cim_scales is 1000"),
        ({"cim_lambda": True}, "cim_lambda is True"),
        ({"cim_lambda": None}, "cim_lambda is None"),
        ({"cim_width": 8.0}, "cim_width is 8.0; accepted is a whole number of at least 1"),
        ({"cim_supervise_mask": 1}, "cim_supervise_mask is 1; accepted is true or false"),
        ({"cim_contrast": "distnace"}, "cim_contrast is 'distnace'; accepted is one of distance, similarity"),
        ({"cim_scales": 6}, "cim_scales is 6; accepted is a whole number of at least 1 and at most 5, or null"),
        ({"cim_pairs": 0}, "cim_pairs is 0; accepted is a whole number of at least 1"),
        ({"cim_mask_side": 7}, "cim_mask_side is 7; accepted is a whole number of at least 8, or null"),
        ({"cim_mask_side": 56.0}, "cim_mask_side is 56.0; accepted is a whole number of at least 8, or null"),
    ],
)
def test_bad_values_are_refused_in_a_sentence(given, message):
    with pytest.raises(UserError) as raised:
        hparams.complete("CIM", given)
    assert message in str(raised.value)


def test_whole_numbers_do_for_floats_and_null_where_it_is_optional():
    values = hparams.complete("CIM", {"cim_lambda": 3, "cim_margin": None})
    assert values["cim_lambda"] == 3.0 and type(values["cim_lambda"]) is float
    assert values["cim_margin"] is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: {help: h, type: float}", "a: the entry 'default' is missing"),
        ("a: {help: h, type: number, default: 1}", "a.type is 'number'; accepted is one of float, int,"),
        ("a: {help: h, type: float, default: 1e-3}", "a: default is '1e-3'; accepted is a number"),  # YAML 1.1: a text
        ("a: {help: h, type: float, default: 1.0, random: {log: [0, 1]}}", "accepted are uniform, log10, log2, choice"),
        (
            "a: {help: h, type: float, default: 1.0, random: {log10: [0]}}",
            "a.random.log10 is [0]; accepted is a list of",
        ),
        (
            "a: {help: h, type: float, default: 1.0, random: {log10: [0, 999]}}",
            "a number of at least -300 and at most 300",
        ),
        (
            "a: {help: h, type: float, default: 1.0, random: {log2: [0, 1], choice: [1]}}",
            "accepted is one distribution",
        ),
        ("a: {help: h, type: float, default: 1.0, random: {}}", "random is {}; accepted is one distribution"),
        (
            "a: {help: h, type: int, default: 1, datasets: {D: {default: 1.5}}}",
            "a: on D, default is 1.5; accepted is a wh",
        ),
        ("a: {help: h, type: int, default: 1, small_images: {default: x}}", "a: on Debug28, default is 'x'"),
        (
            "a: {help: h, type: int, default: 1, bound: [1, 2]}",
            "unknown entry 'bound'; accepted are help, type, default",
        ),
        (
            "a: {help: h, type: int, default: 0, bounds: [1, null]}",
            "default is 0; accepted is a whole number of at least 1",
        ),
        ("a: {help: [h], type: int, default: 1}", "a.help is ['h']; accepted is a text"),
        ("a: 3", "a is 3; accepted is names with values"),
        ("[a]", "must hold names with values, not ['a']"),
        ("include: CIM", "include must hold a list of texts, not 'CIM'"),
        ("include: [Mine]", "includes itself: Mine includes Mine"),
        ("include: [CMI]", "no hyper-parameters of 'CMI'"),
        ("a: [", "is not YAML"),
    ],
)
def test_a_bad_file_is_refused(tmp_path, text, message):
    (tmp_path / "space.yaml").write_text(text)
    with pytest.raises(UserError) as raised:
        hparams.register("Mine", tmp_path / "space.yaml")
    assert message in str(raised.value)
    read.cache_clear()


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"no hyper-parameters of 'Mine': .*mine\.yaml cannot be read"):
        hparams.register("Mine", tmp_path / "mine.yaml")


def test_a_whole_number_that_no_computer_counts_to_is_refused() -> None:
    entry = hparams.HParam("steps", "int", 1)
    assert entry.check("steps", 2**63 - 1) == 2**63 - 1
    for value in (2**63, -(10**30)):
        with pytest.raises(UserError, match="steps is"):
            entry.check("steps", value)
    with pytest.raises(UserError, match="cim_width is 5000; accepted is a whole number of at least 1 and at most 4096"):
        hparams.check(hparams.space("CIM"), {"cim_width": 5000})
