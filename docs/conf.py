"""Sphinx: `nox -s docs`, or `sphinx-build -W --keep-going -b html docs out/docs`."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "_site"), str(HERE.parent), str(HERE.parent / "backends")]

import adafactor_core  # noqa: E402 - found by the line above

project = "adafactor-core"
author = "the adafactor-core authors"
release = adafactor_core.__version__
html_title = f"adafactor-core {release}"

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx_design",
    "mathml",
    "outside",
    "plain_docstrings",
]
root_doc = "index"
exclude_patterns = ["_site", "_shared"]
default_role = "code"  # docstrings are plain text with names in single backticks

myst_enable_extensions = ["colon_fence", "dollarmath", "fieldlist"]
myst_heading_anchors = 4
myst_update_mathjax = False

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True  # as written, and no path of the machine that builds
maximum_signature_line_length = 88
autodoc_mock_imports = ["cupy", "cupyx"]  # a GPU's; nothing of it shows in a signature
python_use_unqualified_type_names = True

html_theme = "furo"
html_static_path = ["_site/static"]
html_extra_path = [str(p.relative_to(HERE)) for p in HERE.glob("trajectories/*.html")]
html_css_files = ["site.css"]
html_copy_source = False
html_domain_indices = False
html_show_sourcelink = False
html_theme_options = {"navigation_with_keys": True}
pygments_style = "friendly"
pygments_dark_style = "github-dark"
