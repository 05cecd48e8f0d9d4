"""The site: Sphinx with MyST and furo."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import viewaug

project = "viewaug"
author = "the viewaug developers"
html_show_copyright = False
version = release = viewaug.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode", "_gallery"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"viewaug {version}"
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # docstrings say what arguments are
napoleon_numpy_docstring = False
napoleon_custom_sections = ["Shape"]
nitpicky = False
