"""Settings of the documentation site. `python scripts/docs.py` builds it, and checks it."""

import sys
from pathlib import Path

import bench

sys.path.insert(0, str(Path(__file__).parent))

project = "cast-bench"
version = release = bench.__version__
copyright = "the authors of cast-bench; Apache-2.0"

extensions = [
    "myst_parser",
    "extension.downloads",
    "extension.mathml",
]
exclude_patterns = ["_build", "extension"]

myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 4

html_theme = "furo"
html_title = "cast-bench"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_math_renderer = "mathml"
html_copy_source = html_show_sourcelink = False
html_last_updated_fmt = None

default_role = "code"
smartquotes = False
