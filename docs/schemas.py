"""Writes the JSON schemas with which editors complete and check the YAML files: `make schemas`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cim_dg.hparams import HParam
from cim_dg.runtime.schema import json_schema
from cim_dg.sweeps.spec import Spec
from cim_dg.wilds.config import defaults_model

ROOT = Path(__file__).parents[1]


def schemas() -> dict[Path, dict[str, Any]]:
    """Each file and its schema."""
    hparams = json_schema(dict[str, HParam])
    include = {"type": "array", "items": {"type": "string"}, "description": "methods whose entries are taken in"}
    sweep = json_schema(Spec)
    sweep["required"].remove("algorithms")  # if there are variants
    return {
        ROOT / "hparams" / "schema.json": {"title": "Hyper-parameters", **hparams, "properties": {"include": include}},
        ROOT / "hparams" / "wilds" / "schema.json": json_schema(defaults_model()),
        ROOT / "sweeps" / "schema.json": sweep,
    }


def text(schema: dict[str, Any]) -> str:
    """A file's content on one line."""
    return json.dumps(schema, sort_keys=True) + "\n"


if __name__ == "__main__":
    for path, schema in schemas().items():
        path.write_text(text(schema), encoding="utf-8")
