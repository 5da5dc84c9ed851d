"""Sphinx configuration."""

from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from pydantic import BaseModel
from sphinx.application import Sphinx

from otoscope.corpus.datasets.folder import FolderCorpus
from otoscope.corpus.datasets.fsdd import FsddCorpus
from otoscope.corpus.datasets.manifest import ManifestCorpus
from otoscope.corpus.datasets.vocalset import VocalSetCorpus
from otoscope.corpus.synth.dataset import SynthCorpus

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

# Formulas become MathML, which browsers draw themselves: the pages need no network.
html_math_renderer = "mathml"


def _inline(writer: Any, node: Any) -> None:
    writer.body.append(convert(node.astext()))
    raise nodes.SkipNode


def _display(writer: Any, node: Any) -> None:
    writer.body.append(f'<div class="math">{convert(node.astext(), display="block")}</div>')
    raise nodes.SkipNode


def _corpora(app: Sphinx) -> None:
    """Write the keys of every corpus as the code has them, to be included in configuration.md."""
    kinds: list[type[BaseModel]] = [FolderCorpus, ManifestCorpus, VocalSetCorpus, FsddCorpus, SynthCorpus]
    lines: list[str] = []
    for kind in kinds:
        lines += [
            f"### `kind: {kind.model_fields['kind'].default}`",
            "",
            "| key | default | what it is |",
            "|---|---|---|",
        ]
        for name, field in kind.model_fields.items():
            if name == "kind":
                continue
            default = "needed" if field.is_required() else f"`{_shown(field.default)}`"
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
    """Register the renderer, and what is written from the code."""
    app.connect("builder-inited", _corpora)
    app.add_html_math_renderer("mathml", inline_renderers=(_inline, None), block_renderers=(_display, None))
