"""Generates the reference pages from the code: the command line, the settings, the hyper-parameters, the API.

`write(folder)` writes them as Markdown; docs/conf.py calls it, and docs/*.md include them.
"""

from __future__ import annotations

import argparse
import inspect
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

import cim_dg
from cim_dg import cli
from cim_dg.runtime import settings

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {"cim_dg": "cim_dg", **{f"cim_dg.{name}": name for name in ("algorithms", "hparams", "sweeps")}}
"""Package -> its folder, as setup.py maps them."""


def write(folder: Path) -> None:
    """Write all pages into `folder`, those of the API into its subfolder api."""
    (folder / "api").mkdir(parents=True, exist_ok=True)
    pages = {"commands": commands(), "settings": settings.table(), "hyperparameters": hyperparameters()}
    pages["exports"] = exports()
    pages |= {f"api/{package}": text for package, text in api().items()}
    for name, text in pages.items():
        file = folder / f"{name}.md"
        if not file.exists() or file.read_text(encoding="utf-8") != text:  # an unchanged page is not built again
            file.write_text(text, encoding="utf-8")


def commands() -> str:
    """The help of every command of `cim-dg`, those within commands included."""
    os.environ["COLUMNS"] = "92"  # argparse wraps its help to this width
    os.environ["NO_COLOR"] = "1"
    return "\n".join(_help(cli.parser(), 1))


def _help(parser: argparse.ArgumentParser, level: int) -> Iterator[str]:
    title = f"{'#' * level} {parser.prog}\n\n" if level > 1 else ""
    yield f"{title}```text\n{parser.format_help()}```\n"
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in dict.fromkeys(action.choices.values()):  # a command may have two names
                yield from _help(inner, level + 1)


def hyperparameters() -> str:
    """A table for each file of hparams/, and the training settings of each dataset of WILDS."""
    folder = ROOT / "hparams"
    sections = ["## Methods"]
    sections += [_table(file) for file in sorted(folder.glob("*.yaml"))]
    sections += ["## Datasets of ours"]
    sections += [_table(file) for file in sorted(folder.glob("datasets/*.yaml"))]
    sections += ["## Training in WILDS"]
    for file in sorted(folder.glob("wilds/*.yaml")):
        sections.append(f"### {file.stem}\n\n```yaml\n{file.read_text(encoding='utf-8')}```")
    return "\n\n".join(sections) + "\n"


def _table(file: Path) -> str:
    entries = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    included = ", ".join(entries.pop("include", []))
    lines = [f"### {file.stem}", ""]
    if included:
        lines += [f"And those of {included}.", ""]
    if not entries:
        return "\n".join(lines if included else [*lines, "None of its own."])
    lines += ["| name | default | random search | accepted | use |", "|---|---|---|---|---|"]
    for name, entry in entries.items():
        cells = [f"`{name}`", _default(entry), _random(entry.get("random")), _accepted(entry), entry["help"]]
        lines.append("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |")
    return "\n".join(lines)


def _text(value: Any) -> str:
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _default(entry: dict[str, Any]) -> str:
    others = {"small images": entry.get("small_images"), **(entry.get("datasets") or {})}
    changed = [
        f"{_text(other['default'])} ({where})" for where, other in others.items() if other and "default" in other
    ]
    return "; ".join([_text(entry["default"]), *changed])


def _random(random: dict[str, Any] | None) -> str:
    if not random:
        return ""
    ((kind, values),) = random.items()
    if kind == "choice":
        return "one of " + ", ".join(map(_text, values))
    between = f"{values[0]} to {values[1]}"
    return {"uniform": between, "log10": f"10 to the power of {between}", "log2": f"2 to the power of {between}"}[kind]


def _accepted(entry: dict[str, Any]) -> str:
    if "choices" in entry:
        accepted = ", ".join(map(_text, entry["choices"]))
    else:
        low, high = entry.get("bounds") or (None, None)
        accepted = entry["type"]
        if low is not None and high is not None:
            accepted += f" from {low} to {high}"
        elif low is not None or high is not None:
            accepted += f" of at least {low}" if high is None else f" of at most {high}"
    return accepted + (" or none" if entry.get("optional") else "")


def modules() -> dict[str, list[str]]:
    """Package -> its modules, the package itself first; a package is a folder with an __init__.py of its own."""
    pages: dict[str, list[str]] = {}
    for top, folder in PACKAGES.items():
        for file in sorted((ROOT / folder).rglob("*.py")):
            parts = file.with_suffix("").relative_to(ROOT / folder).parts
            if parts[-1] == "__init__":
                pages.setdefault(".".join([top, *parts[:-1]]), []).insert(0, ".".join([top, *parts[:-1]]))
            elif not parts[-1].startswith("_"):
                pages.setdefault(".".join([top, *parts[:-1]]), []).append(".".join([top, *parts]))
    return dict(sorted(pages.items()))


def api() -> dict[str, str]:
    """Package -> its page, with all public names."""
    return {package: _api_page(package, names) for package, names in modules().items()}


def exports() -> str:
    """A table of what `cim_dg` exports, with the first sentence of each docstring."""
    lines = [".. list-table::", "   :widths: auto", ""]
    for module, names in sorted(cim_dg._EXPORTS.items()):
        for name in sorted(names):
            summary = (inspect.getdoc(getattr(cim_dg, name)) or "").split("\n\n")[0].replace("\n", " ")
            lines += [f"   * - `{name} <{_home(module, name)}>`", f"     - {summary}"]
    return "```{eval-rst}\n" + "\n".join(lines) + "\n```\n"


def _home(module: str, name: str) -> str:
    """The full name under which the API has it: that of the module that defines it."""
    return f"{getattr(getattr(cim_dg, name), '__module__', module)}.{name}"


def _api_page(package: str, names: list[str]) -> str:
    parts = [f"# {package}\n"]
    for name in names:
        title = f"## {name}\n\n" if name != package else ""
        parts.append(f"{title}```{{eval-rst}}\n.. automodule:: {name}\n```\n")
    return "\n".join(parts)
