"""Pictures of matplotlib's as SVG inside a page: some KB each, letters as letters, and what lies under the pointer says its value."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from facenet.errors import shown

if TYPE_CHECKING:
    from matplotlib.artist import Artist

SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
WIDTH = 5.0  # inches: 360 units, the width of a phone, on which letters keep their size
SETTINGS = {
    "svg.fonttype": "none",  # the reader's letters: those of all languages, and a tenth of the bytes
    "svg.hashsalt": "facenet",  # the same page for the same sweep
    "text.parse_math": False,  # a name may hold dollar signs
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e9ed",
    "axes.axisbelow": True,
}


@contextmanager
def styled() -> Iterator[None]:
    """Inside, pictures look like those of one page."""
    import matplotlib

    with matplotlib.rc_context(SETTINGS), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # it only measures letters, the browser draws them
        yield


class Picture:
    """Axes to draw on, `height` inches high."""

    def __init__(self, height: float = 3.2) -> None:
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure

        self.figure = Figure(figsize=(WIDTH, height), layout="constrained")
        FigureCanvasSVG(self.figure)
        self.axes = self.figure.add_subplot()
        self.told: dict[str, str] = {}

    def tell(self, artist: Artist, text: str) -> None:
        """Gives what a line, a point or a cell says of itself."""
        name = f"tip{len(self.told)}"
        artist.set_gid(name)
        self.told[name] = shown(text)

    def svg(self, label: str) -> str:
        """The picture as an element of HTML."""
        written = io.BytesIO()
        self.figure.savefig(written, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
        root = ElementTree.fromstring(written.getvalue())
        for element in list(root.iter()):
            name = element.get("id", "")
            if name in self.told:
                title = ElementTree.Element(f"{{{SVG}}}title")
                title.text = self.told[name]
                element.insert(0, title)
                element.set("class", "tip")
            if name in self.told or "_" in name:  # figure_1, axes_1: those of the next picture are the same
                del element.attrib["id"]
        root.attrib = {"viewBox": root.get("viewBox", ""), "role": "img", "aria-label": shown(label)}
        ElementTree.register_namespace("", SVG)
        ElementTree.register_namespace("xlink", XLINK)
        return ElementTree.tostring(root, encoding="unicode")
