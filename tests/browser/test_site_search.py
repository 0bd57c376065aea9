"""The search of the documentation's site, in a browser from disk: English by stems, Chinese by any part of a word."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pages import ROOT

pytestmark = pytest.mark.slow
CONF = """
import sys
sys.path.insert(0, {docs!r})
from site_parts import Bigrams

extensions, html_theme, html_search_language = ["myst_parser"], "furo", Bigrams.lang


def setup(app):
    app.add_search_language(Bigrams)
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("sphinx", reason="needs Sphinx: pip install 'facenet[docs]'")
    source = tmp_path_factory.mktemp("site")
    (source / "conf.py").write_text(CONF.format(docs=str(ROOT / "docs")))
    (source / "index.md").write_text("# Losses\n\nHard triplets.\n\n```{toctree}\nzh\n```\n")
    (source / "zh.md").write_text("# 损失\n\n默认是三元组损失加交叉熵。\n")
    subprocess.run([sys.executable, "-m", "sphinx", "-q", "-W", source, source / "out"], check=True, timeout=600)
    return source / "out"


@pytest.mark.parametrize(
    ("query", "title"), [("triplet", "Losses"), ("三元组", "损失"), ("组损失加", "损失"), ("图像", None)]
)
def test_what_is_typed_is_found(browser: Any, site: Path, query: str, title: str | None):
    page = browser.new_page()
    page.goto(f"file://{site}/search.html?q={query}")
    page.wait_for_function("!document.querySelector('#search-progress') || Search.hasIndex()", timeout=60_000)
    page.wait_for_selector("#search-results li a, #search-results .search-summary", timeout=60_000)
    page.wait_for_function("document.querySelector('#search-results h2').textContent != 'Searching'", timeout=60_000)
    assert [link.inner_text() for link in page.query_selector_all("#search-results li a")] == ([title] if title else [])
    page.close()
