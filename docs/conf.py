"""Sphinx configuration."""

from importlib.metadata import version as installed

project = "otoscope"
author = "the otoscope authors"
copyright = "2026, the otoscope authors"
release = version = installed("otoscope")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
myst_enable_extensions = ["dollarmath", "colon_fence", "deflist"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "otoscope"
html_static_path = ["_static"]
autodoc_typehints = "none"
autodoc_member_order = "bysource"
nitpicky = False
