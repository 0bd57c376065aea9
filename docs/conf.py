"""The site: sphinx-build -W -c docs . site, from the top of the checkout; then open site/docs/index.html. Needs facenet[docs].

Sphinx, because it is kept up (MkDocs had its last release in 2024, and its Material theme ends with 2026), checks every link and
anchor of Markdown by MyST, makes the API pages of docstrings, and its search works from disk. The source folder is the whole checkout, so
that links that work in a code browser work here.
"""

import pathlib
import sys
from importlib import metadata

from sphinx.application import Sphinx

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE))

from site_parts import Bigrams, api_page, options_page  # noqa: E402

project = "facenet"
author = "the facenet authors"
version = release = metadata.version("facenet")
root_doc = "docs/index"
include_patterns = [
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "docs/**",
    "experiments/results/*.md",
]

extensions = ["myst_parser", "sphinx.ext.autodoc"]
source_suffix = {".md": "markdown"}
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 4
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_class_signature = "mixed"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True

html_theme = "furo"  # light and dark, its fonts are the reader's own
html_title = f"facenet {version}"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
html_search_language = Bigrams.lang


def fill(app: Sphinx, page: str, source: list[str]) -> None:
    if page == "docs/options":
        source[0] = source[0].replace("<!-- options -->", options_page(HERE.parent / "conf"))
    if page == "docs/api":
        source[0] = source[0].replace("<!-- api -->", api_page(HERE.parent / "facenet"))


def setup(app: Sphinx) -> None:
    app.add_search_language(Bigrams)
    app.connect("source-read", fill)
