"""The JSON schemas that editors complete from are those of the models, and the package's own files meet them."""

from __future__ import annotations

import runpy
from pathlib import Path

import jsonschema
import pytest

from cim_dg.runtime.yaml_reader import read_yaml

ROOT = Path(__file__).parents[1]
SCRIPT = runpy.run_path(str(ROOT / "docs" / "schemas.py"))
SCHEMAS = {path.relative_to(ROOT).as_posix(): schema for path, schema in SCRIPT["schemas"]().items()}


def test_the_files_are_current() -> None:
    for path, schema in SCHEMAS.items():
        assert (ROOT / path).read_text(encoding="utf-8") == SCRIPT["text"](schema), "run `make schemas`"


@pytest.mark.parametrize(
    ("schema", "files"),
    [
        ("hparams/schema.json", [*ROOT.glob("hparams/*.yaml"), *ROOT.glob("hparams/datasets/*.yaml")]),
        ("hparams/wilds/schema.json", [f for f in ROOT.glob("hparams/wilds/*.yaml") if f.stem != "leaderboard"]),
        ("sweeps/schema.json", list(ROOT.glob("sweeps/*.yaml"))),
    ],
)
def test_the_packages_files_meet_them(schema: str, files: list[Path]) -> None:
    validator = jsonschema.validators.validator_for({})(SCHEMAS[schema])
    validator.check_schema(SCHEMAS[schema])
    assert files
    for file in files:
        validator.validate(read_yaml(file) or {})


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ("hparams/schema.json", "a: {help: h, type: number, default: 1}"),
        ("hparams/schema.json", "a: {help: h, type: int, default: 1, random: {log: [0, 1]}}"),
        ("hparams/wilds/schema.json", "optimizer: LBFGS"),
        ("hparams/wilds/schema.json", "lrr: 0.1"),
        ("sweeps/schema.json", "title: x"),
    ],
)
def test_they_refuse_what_the_package_refuses(schema: str, text: str) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(read_yaml(text), SCHEMAS[schema])
