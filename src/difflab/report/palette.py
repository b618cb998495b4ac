"""One look for one setting, wherever it is drawn, told apart by colour, by marker and by line, so that grey will do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from difflab.report.curves import Curve, numeric
from difflab.study.result import Result
from difflab.study.spec import Scalar

# The page's CSS variable -> (on a light page, on a dark one). Hues after Okabe and Ito, safe for the colour-blind.
COLOURS: dict[str, tuple[str, str]] = {
    "ink": ("#1d2127", "#e8e6e1"),
    "muted": ("#5c636e", "#a3a8b1"),
    "rule": ("#d9dce1", "#3a3f47"),
    "mark": ("#8a1f3d", "#f08aa4"),
    "warm-0": ("#0067a5", "#5ab4f0"),
    "warm-1": ("#3796d3", "#9bd4f7"),
    "warm-2": ("#00805e", "#3fc79f"),
    "warm-3": ("#c17f00", "#f2b84b"),
    "warm-4": ("#c44a00", "#f58a4b"),
    "warm-5": ("#a8457b", "#e59ac3"),
    "deep-0": ("#a985d4", "#8262bb"),
    "deep-1": ("#8f68c4", "#9879cf"),
    "deep-2": ("#7047ac", "#b297e2"),
    "deep-3": ("#532c8e", "#cab6ef"),
    "deep-4": ("#391a6b", "#e0d3f8"),
    "deep-5": ("#230b49", "#f3edff"),
}
_RAMPS = ("warm", "deep")
_SPREAD = {1: (0,), 2: (0, 4), 3: (0, 3, 4), 4: (0, 1, 3, 4), 5: (0, 1, 2, 3, 4), 6: (0, 1, 2, 3, 4, 5)}
_NAMES = (0, 2, 5, 3, 1, 4)  # slots of names: apart from those that two to four numbers, such as etas, have
_DISTINCT = ("warm-0", "warm-4", "warm-2", "warm-3", "deep-2", "warm-5")  # for names without an order
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_LINES = ((0, ()), (0, (6, 2)), (0, (2, 1.5)), (0, (6, 2, 1.5, 2)), (0, (9, 3)))


@dataclass(frozen=True)
class Look:
    """How a curve is drawn: a light page's colour, a marker, a line's dashes."""

    colour: str
    marker: str
    line: tuple[int, tuple[float, ...]]


class Palette:
    """The looks of all values of all axes in a report."""

    def __init__(self, results: Sequence[Result]) -> None:
        values: dict[str, list[Scalar]] = {}
        for result in results:
            for axis, places in result.study.axes.items():
                known = values.setdefault(axis, [])
                known += [place for place in places if place not in known]
        # A lone curve is told by what tells curves apart in other studies, which is seldom the number of steps.
        axes = sorted(values, key=lambda axis: axis == "steps")
        self._values = {axis: sorted(values[axis], key=_order) for axis in axes}
        # steps get the ramp from pale to deep, all else the one from cold to warm: more noise is warmer.
        self._ramp = {axis: _RAMPS[axis == "steps"] for axis in self._values}

    def look(self, result: Result, curve: Curve) -> Look:
        """A curve's look, from the first of its common settings, or for a lone curve, which is solid, from another
        study's axis."""
        if curve.setting:
            axis, value = next(iter(curve.setting.items()))
        else:
            axis = next((name for name in self._values if name not in result.study.axes), "")
            value = getattr(result.study.base, axis, None)
        known = self._values.get(axis, [])
        if value not in known:
            return Look(COLOURS["warm-0"][0], _MARKERS[0], _LINES[0])
        index = known.index(value)
        slots = _SPREAD.get(len(known), _SPREAD[6]) if numeric(known) else _NAMES
        colour = COLOURS[f"{self._ramp[axis]}-{slots[index % len(slots)]}"][0]
        return Look(colour, _MARKERS[index % len(_MARKERS)], _LINES[index % len(_LINES) if curve.setting else 0])


def _order(value: Scalar) -> tuple[bool, float, str]:
    number = isinstance(value, int | float)
    return (not number, float(value) if isinstance(value, int | float) else 0.0, str(value))


def distinct(n: int) -> list[tuple[str, str]]:
    """Colour and marker of n curves that have no order."""
    return [(COLOURS[_DISTINCT[i % len(_DISTINCT)]][0], _MARKERS[i % len(_MARKERS)]) for i in range(n)]
