"""How the documentation is built: `make docs`."""

from __future__ import annotations

from typing import Any

from docutils import nodes
from latex2mathml.converter import convert

import hsi_fuse

project = "hsi-fuse"
copyright = "the hsi-fuse authors"
release = version = hsi_fuse.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
napoleon_google_docstring = False
autodoc_typehints = "none"  # the docstrings say types, with shapes and units
autodoc_member_order = "bysource"
exclude_patterns = ["_build"]

html_theme = "alabaster"
html_theme_options = {"description": "A hyperspectral image, sharpened", "fixed_sidebar": True}
html_math_renderer = "mathml"


def _mathml(display: str) -> Any:
    """Formulas as MathML, which browsers draw without a script or a network."""

    def visit(self: Any, node: nodes.Element) -> None:
        formula = convert(node.astext(), display=display)
        self.body.append(formula if display == "inline" else f"<p>{formula}</p>")
        raise nodes.SkipNode

    return visit


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.add_html_math_renderer("mathml", (_mathml("inline"), None), (_mathml("block"), None))
