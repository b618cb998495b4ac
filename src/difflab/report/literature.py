"""What the papers found that the studies here can be set beside, by problem set. Numbers are the papers' own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from difflab.report.claims import (
    Check,
    Claim,
    ahead,
    as_long,
    better,
    falling_returns,
    gain,
    in_samples,
    in_trainings,
    linear,
    shrinks,
    worse,
)
from difflab.report.curves import Comparison, Curve, curves, first_axis, scored
from difflab.report.effects import ends
from difflab.report.learning import measures
from difflab.report.paper import TABLES
from difflab.report.phrases import at, size_of
from difflab.report.timing import linear_fit, ratio
from difflab.report.words import duration, plain, settings
from difflab.study.learning import Learning
from difflab.study.result import Result, Row
from difflab.study.spec import Metric


def _more_steps(result: Result) -> list[Check]:
    """That the main metric improves from the fewest steps to the most, on each curve."""
    metric = next(iter(result.metric_names))
    lines = [line for line in curves(scored(result, metric), "steps") if len(line.rows) > 1]
    return [better(result, metric, line.rows[0], line.rows[-1]) for line in lines]


def _levels_off(result: Result) -> list[Check]:
    """That the main metric gains less and less by each doubling of the steps, on each curve."""
    metric = next(iter(result.metric_names))
    lines = curves(scored(result, metric), "steps")
    return [check for line in lines for check in falling_returns(result, metric, line)]


def _no_noise_at_few_steps(result: Result) -> list[Check]:
    """That eta 0 beats every other eta at the fewest steps."""
    if (both := _eta_ends(result)) is None:
        return []
    none, *others = both[0].rows
    return [worse(result, "fid", none, other) for other in others] if none.settings.eta == 0 else []


def _gap_shrinks(result: Result) -> list[Check]:
    """That noise harms at the fewest steps, by more than it changes anything at the most."""
    if (both := _eta_ends(result)) is None:
        return []
    few, many, small, large = both
    told = [
        f"{size_of('fid', step, evidence=True)} {'for the better' if step.better else 'for the worse'} at "
        f"{settings(line.setting)}"
        for line, step in ((few, small), (many, large))
    ]
    side = shrinks(gain("fid", small), gain("fid", large))
    return [Check(f"From the least eta to the largest it is {told[0]} and {told[1]}.", side)]


def _eta_ends(result: Result) -> tuple[Curve, Curve, Comparison, Comparison] | None:
    """The curves along eta at the fewest and at the most steps, and FD from the least eta to the largest on each."""
    return ends(result, "fid") if list(result.study.axes) == ["eta", "steps"] else None


def _time_is_linear(result: Result) -> list[Check]:
    return [linear(fit)] if (fit := linear_fit(result)) is not None else []


def _time_by(axis: str, proportional: bool = False) -> Callable[[Result], list[Check]]:
    """That samples take as long at both ends of an axis, or in proportion to its values."""

    def checks(result: Result) -> list[Check]:
        if axis not in result.study.axes:
            return []
        if (taken := ratio(result, axis)) is None:
            return _plain_times(result, axis)
        return [as_long(axis, taken, float(taken.b or 0) / float(taken.a or 1) if proportional else 1.0)]

    return checks


def _plain_times(result: Result, axis: str) -> list[Check]:
    """The times at both ends of the only axis, where chunks are too few for an interval."""
    rows = [row for row in result.rows if row.seconds_per_sample > 0]
    if list(result.study.axes) != [axis] or len(rows) < 2:
        return []
    line = curves(rows, axis)[0]
    a, b = (f"{duration(row.seconds_per_sample)} with {at(line, row)}" for row in (line.rows[0], line.rows[-1]))
    text = f"A sample takes {a} and {b}, from too few chunks for an interval: take more chunks."
    return [Check(text, "open", explained=True)]


def _some_guidance(result: Result) -> list[Check]:
    """That FID is better at scale 1.5 than at 1."""
    off, some = (_at(result, "fid", "guidance", scale) for scale in (1.0, 1.5))
    return [better(result, "fid", off, some)] if off and some else []


def _too_much_guidance(result: Result) -> list[Check]:
    """That FID is worse at the largest scale than at 1.5."""
    some = _at(result, "fid", "guidance", 1.5)
    rows = sorted(scored(result, "fid"), key=lambda row: row.settings.guidance)
    return [worse(result, "fid", some, rows[-1])] if some and rows[-1].key != some.key else []


def _fidelity_for_diversity(result: Result) -> list[Check]:
    """That precision rises and recall falls from the least to the largest scale."""
    lines = curves([row for row in scored(result, "recall") if "precision" in row.scores], first_axis(result))
    each = []
    for line in lines:
        if len(line.rows) > 1:
            each += [better(result, "precision", line.rows[0], line.rows[-1])]
            each += [worse(result, "recall", line.rows[0], line.rows[-1])]
    return each


def _zero_leads(learning: Learning) -> list[Check]:
    return _ahead_of(learning, [("adaLN-Zero", other) for other in ("adaLN", "cross-attention", "in-context")])


def _order_of_the_rest(learning: Learning) -> list[Check]:
    return _ahead_of(learning, [("adaLN", "cross-attention"), ("cross-attention", "in-context")])


def _ahead_of(learning: Learning, pairs: list[tuple[str, str]]) -> list[Check]:
    """That the first of each pair is ahead of the second, by held-out loss and by FD."""
    judges = [m for m in measures(learning, learning.study.snapshots[-1]) if m.metric in (None, "fid")]
    each = [ahead(m, a, b) for m in judges for a, b in pairs if a in m.values and b in m.values]
    scale = learning.study.draw.guidance
    if each and scale != 1.0 and "fid" in learning.metric_names:
        drawn = f"Our samples are drawn at guidance scale {plain(scale)}, the paper’s without guidance."
        each[-1] = replace(each[-1], measured=f"{each[-1].measured} {drawn}")
    return each


def _trained_length(result: Result) -> list[Check]:
    """That clips of the length that was trained are better than others, where all show as many frames."""
    network = result.passport.get("model", {}).get("network", {})
    trained = _at(result, "fvd-window", "frames", network.get("num_frames"))
    if trained is None:
        return []
    others = [row for row in scored(result, "fvd-window") if row.key != trained.key]
    return [worse(result, "fvd-window", trained, other) for other in others]


def _order_two_leads(result: Result) -> list[Check]:
    """That DPM-Solver++ 2M beats DDIM at each number of calls from 15 to 20."""
    by = {(row.varied.get("sampler"), row.varied.get("calls")): row for row in scored(result, "fid")}
    places = sorted({int(calls) for _, calls in by if isinstance(calls, int) and 15 <= calls <= 20})
    pairs = [(by.get(("ddim", calls)), by.get(("dpmpp-2m", calls))) for calls in places]
    each = [better(result, "fid", a, b) for a, b in pairs if a and b]
    if each and result.study.base.guidance == 1.0:
        each[-1] = replace(each[-1], measured=f"{each[-1].measured} Ours is without guidance.")
    return each


def _at(result: Result, metric: Metric, axis: str, value: float | None) -> Row | None:
    """The row at a value of the only axis."""
    if value is None or list(result.study.axes) != [axis]:
        return None
    return next((row for row in scored(result, metric) if row.varied[axis] == value), None)


_ETA_0, _ETA_02, _ETA_05, _ETA_1 = (
    TABLES["CIFAR-10, FID"][eta] for eta in (0.0, 0.2, 0.5, 1.0)
)  # at 10, 20, 50, 100 steps
_FEW = "the differences are small beside what chance does with so few samples; more of them would tell."
CLAIMS: dict[str, tuple[Claim, ...]] = {
    "ddim": (
        Claim(
            f"More steps give better samples (Song et al., 2021, Table 1: with eta 0 on CIFAR-10, FID {_ETA_0[0]} at "
            f"10 steps, {_ETA_0[1]} at 20, {_ETA_0[2]} at 50, {_ETA_0[3]} at 100).",
            in_samples(_more_steps, "ddim-steps"),
            against="the model’s own errors grow along a longer path.",
            unclear=_FEW,
        ),
        Claim(
            f"The returns fall (the same row: from 10 to 20 steps FID falls by {_ETA_0[0] - _ETA_0[1]:.2f}, from 50 to "
            f"100 by {_ETA_0[2] - _ETA_0[3]:.2f}).",
            in_samples(_levels_off, "ddim-steps"),
            against="the fewest steps tried here are too few for the model to gain from a doubling.",
            unclear="the two settings at either end are too close for this number of samples.",
        ),
        Claim(
            f"At few steps no noise is best (Table 1, CIFAR-10, 10 steps: {_ETA_0[0]} with eta 0, {_ETA_02[0]} with "
            f"0.2, {_ETA_05[0]} with 0.5, {_ETA_1[0]} with 1). Here it is judged at the fewest steps tried.",
            in_samples(_no_noise_at_few_steps, "ddim-eta"),
            against="the deterministic path has an error of its own here that fresh noise mends.",
            unclear=_FEW,
        ),
        Claim(
            f"The gap shrinks with more steps (Table 1, CIFAR-10, eta 1 less eta 0: {_ETA_1[0] - _ETA_0[0]:.2f} at 10 "
            f"steps, {_ETA_1[3] - _ETA_0[3]:.2f} at 100).",
            in_samples(_gap_shrinks, "ddim-eta"),
            against="few steps leave so large an error here that noise adds little to it.",
            unclear=_FEW,
        ),
        Claim(
            "Sampling time is linear in the number of steps (Section 5.1 and Figure 4).",
            in_samples(_time_is_linear, "ddim-steps", "ddim-eta"),
            against="other work on the machine, or what a call costs besides the network, bends the line.",
            unclear="other work on the machine scatters the times.",
        ),
        Claim(
            "Time does not depend on eta (it follows from Equation 12: one network call a step, whatever eta is).",
            in_samples(_time_by("eta"), "ddim-eta"),
            against="drawing noise costs something beside a network as small as this one.",
            unclear="the times of chunks scatter by more than a tenth.",
        ),
    ),
    "dit": (
        Claim(
            "More sampling steps give better samples (Peebles and Xie, 2023, Figure 10, 16 to 1000 steps).",
            in_samples(_more_steps, "dit-steps"),
            against="guidance is on here, and its errors add up along the way.",
            unclear=_FEW,
        ),
        Claim(
            "They do not make up for a smaller model (Section 5: L/2 with 1000 steps has FID-10K 25.9, XL/2 with 128 "
            "has 23.7 at a fifth of the compute).",
        ),
        Claim(
            "Some guidance lowers FID (Peebles and Xie, 2023, Table 2: XL/2 at 256 pixels, 9.62 without, 2.27 at scale "
            "1.5).",
            in_samples(_some_guidance, "dit-cfg"),
            against=(
                "the model draws this small world well enough without guidance, which then only takes variety; on "
                "ImageNet it is far from that."
            ),
            unclear="what guidance gains in fidelity it takes in variety, and FID sees the sum.",
        ),
        Claim(
            "Too much raises it again (Ho and Salimans, 2022: FID is best at weak guidance, *w* = 0.1 or 0.3, which is "
            "a scale of 1.1 or 1.3; the Inception Score at *w* of 4 or more).",
            in_samples(_too_much_guidance, "dit-cfg"),
            against="the largest scale tried here is not yet too much.",
            unclear="the largest scale tried here is not far enough from the best one.",
        ),
        Claim(
            "Guidance buys fidelity with diversity: precision rises and recall falls (Table 2 of Peebles and Xie: from "
            "0.67 and 0.67 without to 0.83 and 0.57 at scale 1.5).",
            in_samples(_fidelity_for_diversity, "dit-cfg"),
            against="what these features see as fidelity is not what guidance sharpens.",
            unclear="precision and recall of so few samples have wide intervals.",
        ),
        Claim(
            "Of four ways to condition, adaLN-Zero is best (Section 5 and Figure 5: XL/2, FID after 400,000 steps 19.5 "
            "with adaLN-Zero, 25.2 with adaLN, 26.1 with cross-attention, 35.2 in context).",
            in_trainings(_zero_leads, "dit-conditioning"),
            against="models this small, trained for minutes, show who learns fast and not who ends best.",
            unclear="a few seeds of models this small differ by chance as much as the designs do.",
        ),
        Claim(
            "Among the others the order is adaLN, cross-attention, in-context (the same numbers).",
            in_trainings(_order_of_the_rest, "dit-conditioning"),
            against=(
                "models this small, trained for minutes, show who learns fast and not who ends best; and FD of samples "
                "that are not scenes yet says little."
            ),
            unclear=(
                "a few seeds differ by chance as much as the designs do; and FD of samples that are not scenes yet "
                "says little."
            ),
        ),
    ),
    "vdm": (
        Claim(
            "More steps give better samples. This is known of pictures (Song et al., 2021, Table 1) and taken over "
            "here; we know of no such series for clips.",
            in_samples(_more_steps, "vdm-steps"),
            against="the distance of so few clips is mostly bias.",
            unclear="so few clips give intervals as wide as the differences.",
        ),
        Claim(
            "The returns fall (the same).",
            in_samples(_levels_off, "vdm-steps"),
            against="the fewest steps tried here are too few for the model to gain from a doubling.",
            unclear="so few clips give intervals as wide as the differences.",
        ),
        Claim(
            "The model draws a fixed number of frames, that of its training (Ho et al., 2022, Section 1), so other "
            "lengths should be worse. The paper has no numbers for other lengths.",
            in_samples(_trained_length, "vdm-frames"),
            against="the first frames of a clip are good at any length, and only these are compared.",
            unclear=(
                "the first frames of a clip are good at any length, and only these are compared; and so few clips give "
                "wide intervals."
            ),
        ),
        Claim(
            "Time grows about in proportion to the frames (it follows from the design, Section 3: all layers but "
            "attention along time see each frame alone).",
            in_samples(_time_by("frames", proportional=True), "vdm-frames"),
            against="what is done once a call and not once a frame counts beside frames this small.",
            unclear="the times of few chunks scatter by more than a tenth.",
        ),
        Claim(
            "Reconstruction guidance extends clips better than earlier methods (Ho et al., 2022, abstract). Only that "
            "one was run here.",
        ),
    ),
    "samplers": (
        Claim(
            "In guided sampling with 15 to 20 calls DPM-Solver++(2M), a solver of second order, beats DDIM, which is "
            "of first order (Lu et al., 2022, DPM-Solver++).",
            in_samples(_order_two_leads, "samplers"),
            against="the network’s own error, which no solver mends, is larger here than that of the solver.",
            unclear="both have come so close to what the network can do that few samples do not part them.",
        ),
    ),
    "imagenet": (
        Claim(
            "A classifier’s gradient buys fidelity with diversity: precision rises with its scale and recall falls "
            "(Dhariwal and Nichol, 2021, Figure 4).",
            in_samples(_fidelity_for_diversity, "ddim-imagenet"),
            against="the scales tried here go beyond where samples still look like the data.",
            unclear="precision and recall of so few samples have wide intervals.",
        ),
    ),
}
