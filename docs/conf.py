"""The documentation site: `make docs` builds it with Sphinx, and a warning is an error."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.util import logging

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS))

import reference  # noqa: E402

import cim_dg  # noqa: E402

project = "cim-dg"
copyright = "the cim-dg maintainers"
version = release = cim_dg.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["generated/*.md", "gallery/*"]
suppress_warnings = ["ref.python"]  # `name` in a docstring is a link where it can be one, and code where it cannot

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

highlight_language = "text"
default_role = "py:obj"
add_module_names = False
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False
autodoc_typehints_format = "short"
autodoc_default_options = {"members": True, "undoc-members": True, "show-inheritance": True, "ignore-module-all": True}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_custom_sections = ["Shape", "Shapes"]
napoleon_use_ivar = True

html_theme = "furo"
html_title = f"cim-dg {version}"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_copy_source = False


def require_docstring(_app: Sphinx, kind: str, name: str, thing: Any, _options: Any, lines: list[str]) -> None:
    """Warn, which fails the build, of a public module, class, function or method of ours that has no docstring."""
    home = name if kind == "module" else getattr(thing, "__module__", None) or ""
    if kind not in ("attribute", "data") and f"{name}.".startswith(f"{home}.") and not any(lines):
        logging.getLogger(__name__).warning("%s %s has no docstring", kind, name)


def copy_report(app: Sphinx, error: Exception | None) -> None:
    """Copy the gallery's report, an HTML page that Sphinx does not build, to the place that the page links to."""
    if error is None and app.builder.format == "html":
        (Path(app.outdir) / "gallery").mkdir(exist_ok=True)
        shutil.copy(DOCS / "gallery" / "report.html", Path(app.outdir) / "gallery")


def setup(app: Sphinx) -> None:
    """Write the generated pages, then let Sphinx read."""
    reference.write(DOCS / "generated")
    app.connect("autodoc-process-docstring", require_docstring)
    app.connect("build-finished", copy_report)
