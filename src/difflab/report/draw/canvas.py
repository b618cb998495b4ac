"""Figures as SVG text: one style, real text, the same bytes for the same numbers, in a page's colours."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from difflab.report.palette import COLOURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, RULE, MARK = (COLOURS[name][0] for name in ("ink", "muted", "rule", "mark"))
_LEGEND_LETTERS = 62  # that a legend holds in a row
_FRAME_MILLISECONDS = 125  # of films
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "difflab",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10.5,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.7,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.handlelength": 2.2,
    "legend.handletextpad": 0.5,
}


def panel(draw: Callable[[Axes], None]) -> str:
    with styled():
        figure = blank(5.0, 3.5, "constrained")
        axes = figure.add_subplot()
        draw(axes)
        handles, labels = axes.get_legend_handles_labels()
        if len(handles) > 1:
            columns = max(1, min(4, _LEGEND_LETTERS // (max(map(len, labels)) + 6)))  # 6 for the line before each
            figure.legend(handles, labels, loc="outside lower right", ncols=columns, fontsize=9.5, columnspacing=1.2)
        return finished(figure)


def styled() -> Any:
    from matplotlib import rc_context

    return rc_context(_STYLE)


def blank(width: float, height: float, layout: Literal["constrained"] | None = None) -> Figure:
    from matplotlib.figure import Figure

    return Figure((width, height), layout=layout, facecolor="#ffffff")


@dataclass(frozen=True)
class Film:
    """Pictures (H, W, 4) that play in a figure. box: left, bottom, width, height, as shares of the figure."""

    box: tuple[float, float, float, float]
    frames: list[np.ndarray]

    def image(self, width: float, height: float) -> str:
        """An SVG element for a figure of that size in points."""
        from PIL import Image

        buffer = io.BytesIO()
        first, *rest = map(Image.fromarray, self.frames)
        first.save(buffer, "PNG", save_all=True, append_images=rest, duration=_FRAME_MILLISECONDS, loop=0)
        data = base64.b64encode(buffer.getvalue()).decode()
        left, bottom, broad, tall = self.box
        place = f'x="{left * width:.2f}" y="{(1 - bottom - tall) * height:.2f}" width="{broad * width:.2f}"'
        return (
            f'<image {place} height="{tall * height:.2f}" preserveAspectRatio="none" '
            f'style="image-rendering: pixelated" href="data:image/png;base64,{data}"/>'
        )


def finished(figure: Figure, films: Sequence[Film] = ()) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    width, height = (72 * inches for inches in figure.get_size_inches())
    playing = "".join(film.image(width, height) for film in films)
    return buffer.getvalue().replace("</svg>", f"{playing}</svg>")


def themed(svg: str, prefix: str) -> str:
    """The SVG for inside a page: in the page's colours, without a white ground, ids beginning with `prefix`."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r'( id="|url\(#|href="#)', rf"\1{prefix}-", svg)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) width="([0-9.]+)pt"', r'\1 style="--width: \2pt"', svg, count=1)
    for name, (light, _) in COLOURS.items():
        svg = svg.replace(light, f"var(--{name})")
    return svg.replace("fill: #ffffff", "fill: none")
