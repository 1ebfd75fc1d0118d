"""Settings of the documentation site. `python scripts/docs.py` builds it, and checks it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import bench

sys.path.insert(0, str(Path(__file__).parent))

project = "cast-bench"
version = release = bench.__version__
copyright = "the authors of cast-bench; Apache-2.0"

extensions = [
    "myst_parser",
    "sphinx_copybutton",
    "extension.downloads",
    "extension.mathml",
]
exclude_patterns = ["_build", "extension"]

myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 4


def find_repository() -> str:
    """Return OWNER/NAME on GitHub, or "" if neither the build nor the checkout says it. Then pages
    have no edit links."""
    if named := os.environ.get("GITHUB_REPOSITORY"):
        return named
    remote = ["git", "-C", str(Path(__file__).parent), "remote", "get-url", "origin"]
    done = subprocess.run(remote, capture_output=True, text=True, check=False)
    match = re.search(r"github\.com[:/]([\w.-]+/[\w.-]+?)(\.git)?$", done.stdout.strip())
    return match[1] if match else ""


html_theme = "furo"
if repository := find_repository():
    html_theme_options = {
        "source_repository": f"https://github.com/{repository}/",
        "source_branch": "main",
        "source_directory": "docs/",
    }
html_title = "cast-bench"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_js_files = [("tables.js", {"defer": "defer"})]
html_math_renderer = "mathml"
html_copy_source = html_show_sourcelink = False
html_last_updated_fmt = None
# The search fetches each page for its summary, which browsers forbid for file:// pages.
html_show_search_summary = False

default_role = "code"
smartquotes = False
