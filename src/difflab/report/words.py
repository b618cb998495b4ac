"""Numbers and settings as a reader wants to see them: as many digits as the interval supports, and units."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from difflab.study.result import Result, Score
from difflab.study.spec import Metric, Scalar

_MOST_DIGITS = 4
SHARES: dict[Metric, tuple[str, str]] = {  # in a sentence, and on an axis
    "valid": ("share of valid samples", "valid samples (%)"),
    "accuracy": ("class accuracy", "class accuracy (%)"),
    "direction": ("share of clips that move as asked", "moves as asked (%)"),
    "caption": ("share of samples with all that the caption says", "all the caption says (%)"),
    "caption-one": ("share with all that captions of one shape say", "captions of one shape (%)"),
    "caption-two": ("share with all that captions of two shapes say", "captions of two shapes (%)"),
    "objects": ("share with as many shapes as told", "number of shapes as told (%)"),
    **{
        aspect: (f"share with the {aspect} told", f"{aspect} as told (%)")
        for aspect in (
            "kind",
            "colour",
            "size",
            "place",
            "relation",
            "background",
            "speed",
        )
    },
}


def short(result: Result, metric: Metric) -> str:
    """A metric's name for a sentence: "FD (shapes-image)" -> "FD"; shares are spelled out."""
    if metric in SHARES:
        return SHARES[metric][0]
    return unfeatured(result.metric_names[metric])


def unfeatured(name: str) -> str:
    """A metric's name without its features: "FD (shapes-clip), first 4 frames" -> "FD, first 4 frames"."""
    name, _, rest = name.partition(" (")
    return f"{name}{rest[rest.index(')') + 1 :] if ')' in rest else ''}"


def title(result: Result, metric: Metric) -> str:
    """A metric's full name for a sentence."""
    return SHARES[metric][0] if metric in SHARES else result.metric_names[metric]


def heading(result: Result, metric: Metric) -> str:
    """A metric's name for an axis or a column, with its unit."""
    return SHARES[metric][1] if metric in SHARES else result.metric_names[metric]


def scaled(metric: Metric, value: float) -> float:
    """A score in the unit it is shown in: shares in per cent, all else as it is."""
    return 100.0 * value if metric in SHARES else value


def unit(metric: Metric) -> str:
    """What follows a score of this metric."""
    return "\u00a0%" if metric in SHARES else ""


def decimals(value: float, low: float, high: float) -> int:
    """Decimals worth showing: as many as the interval's half width supports, and never above four significant digits.

    That is to the first digit of the half width, or to the second if the first is 1 or 2.
    """
    half = abs(high - low) / 2 or abs(value) / 1000
    if not (math.isfinite(half) and half > 0):
        return 0
    supported = -math.floor(math.log10(half / 3))
    before_point = math.floor(math.log10(max(abs(value), abs(low), abs(high)))) + 1
    return max(0, min(supported, _MOST_DIGITS - before_point))


def with_interval(value: float, low: float, high: float) -> str:
    """A difference and its interval, "0.50 [0.02, 0.98]": an end that is not zero does not round to it."""
    places = decimals(value, low, high)
    while places < 2 * _MOST_DIGITS and any(end and not float(f"{end:.{places}f}") for end in (low, high)):
        places += 1
    return f"{fixed(value, places)} [{fixed(low, places)}, {fixed(high, places)}]"


def fixed(value: float, places: int) -> str:
    """`value` with `places` decimals, a true minus sign, and no minus zero."""
    text = f"{value:,.{places}f}"
    if text.startswith("-") and not text.strip("-0.,"):
        text = text[1:]
    return text.replace("-", "−")


def score_text(metric: Metric, score: Score) -> tuple[str, str]:
    """A score and its interval, for example ("4.67", "[4.60, 4.74]")."""
    value, low, high = (scaled(metric, x) for x in (score.value, score.low, score.high))
    places = decimals(value, low, high)
    return fixed(value, places) + unit(metric), f"[{fixed(low, places)}, {fixed(high, places)}]"


def significant(value: float, digits: int = 2) -> str:
    """`value` rounded to significant digits, written without an exponent."""
    if not value or not math.isfinite(value):
        return "0" if not value else str(value)
    rounded = float(f"{value:.{digits - 1}e}")
    return fixed(rounded, max(0, digits - 1 - math.floor(math.log10(abs(rounded)))))


def duration(seconds: float) -> str:
    """A time in the unit a reader would choose: "1.9 ms", "2.4 s", "3 min 05 s", "1 h 12 min"."""
    if seconds <= 0:
        return "–"
    if seconds < 0.995e-3:  # 2 digits would round the next thousandth up to a thousand
        return f"{significant(seconds * 1e6)} µs"
    if seconds < 0.995:
        return f"{significant(seconds * 1e3)} ms"
    if seconds < 59.5:
        return f"{significant(seconds)} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def plain(value: Scalar) -> str:
    """A setting's value: 0.20 -> "0.2", None -> "default"."""
    if value is None:
        return "default"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def setting(name: str, value: Scalar) -> str:
    """One setting in words: "50 steps", "1 step", "eta 0.2", "seed 3"."""
    if name == "steps":
        return f"{plain(value)}\u00a0step{'' if value == 1 else 's'}"
    if name == "calls":
        return f"{plain(value)}\u00a0call{'' if value == 1 else 's'}"
    if name in ("frames", "extend") and value is not None:
        return f"{plain(value)}\u00a0frame{'' if value == 1 else 's'}"
    if name == "sampler":
        return f"sampler {value}"
    if name == "guidance":
        return f"scale\u00a0{plain(value)}"
    return f"{name.replace('_', ' ')}\u00a0{plain(value)}"


def settings(varied: Mapping[str, Scalar]) -> str:
    """All varied settings of a cell, for example "eta 0.2 with 50 steps"."""
    first, *rest = [setting(name, value) for name, value in varied.items()] or [""]
    return f"{first} with {', '.join(rest)}" if rest else first


def axis_title(name: str) -> str:
    """An axis of a figure, with what its numbers count."""
    titles = {
        "steps": "sampling steps",
        "eta": "eta (0: deterministic, 1: as noisy as DDPM)",
        "count": "samples",
        "calls": "network calls a sample, at most",
        "guidance": "guidance scale (1: off)",
        "classifier_scale": "scale of the classifier's gradient (0: off)",
        "frames": "frames of a clip",
        "extend": "frames of a clip, drawn block by block",
    }
    return titles.get(name, name.replace("_", " "))


def capital(text: str) -> str:
    """`text` with its first letter in upper case."""
    return text[:1].upper() + text[1:]


def listed(parts: Iterable[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    *head, last = list(parts)
    return f"{', '.join(head)} and {last}" if head else last
