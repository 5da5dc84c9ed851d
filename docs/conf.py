"""Sphinx configuration."""

from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx

from otoscope.corpus.catalog import CORPORA, corpus_class

project = "otoscope"
author = "the otoscope authors"
copyright = "2026, the otoscope authors"
release = version = installed("otoscope")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
myst_enable_extensions = ["dollarmath", "colon_fence", "deflist"]
myst_heading_anchors = 3
exclude_patterns = ["_build", "_generated"]
html_theme = "furo"
html_title = "otoscope"
html_static_path = ["_static"]
autodoc_typehints = "none"
autodoc_member_order = "bysource"
nitpicky = False

# Formulas become MathML, which browsers render without a network.
html_math_renderer = "mathml"


def _inline(writer: Any, node: Any) -> None:
    writer.body.append(convert(node.astext()))
    raise nodes.SkipNode


def _display(writer: Any, node: Any) -> None:
    writer.body.append(f'<div class="math">{convert(node.astext(), display="block")}</div>')
    raise nodes.SkipNode


def _corpora(app: Sphinx) -> None:
    """Write the keys of every corpus kind from the code, for configuration.md."""
    kinds = [corpus_class(kind) for kind in CORPORA]
    lines: list[str] = []
    for kind in kinds:
        lines += [
            f"### `kind: {kind.model_fields['kind'].default}`",
            "",
            "| key | default | meaning |",
            "|---|---|---|",
        ]
        for name, field in kind.model_fields.items():
            if name == "kind":
                continue
            default = "required" if field.is_required() else f"`{_shown(field.default)}`"
            lines.append(f"| `{name}` | {default} | {str(field.description).replace('|', chr(92) + '|')} |")
        lines.append("")
    target = Path(app.srcdir) / "_generated" / "corpora.md"
    target.parent.mkdir(exist_ok=True)
    target.write_text("\n".join(lines), encoding="utf-8")


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return "[" + ", ".join(map(str, value)) + "]"
    return "null" if value is None else str(value) or '""'


def setup(app: Sphinx) -> None:
    """Register the renderer and the generated page."""
    app.connect("builder-inited", _corpora)
    app.add_html_math_renderer("mathml", inline_renderers=(_inline, None), block_renderers=(_display, None))
