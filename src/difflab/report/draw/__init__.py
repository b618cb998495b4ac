"""Results drawn as SVG: one module for each kind of figure."""

from difflab.report.draw.canvas import themed
from difflab.report.draw.cost import quality_time, time_axis, time_frames, time_steps
from difflab.report.draw.overview import overview
from difflab.report.draw.pictures import nearest, strip
from difflab.report.draw.quality import aspects, quality_curve, trade_off
from difflab.report.draw.trainings import learning_curves

__all__ = [
    "aspects",
    "learning_curves",
    "nearest",
    "overview",
    "quality_curve",
    "quality_time",
    "strip",
    "themed",
    "time_axis",
    "time_frames",
    "time_steps",
    "trade_off",
]
