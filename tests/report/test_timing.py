"""What is said about time: of lines that are straight and of lines that bend, of settings that cost and that do not."""

from __future__ import annotations

import numpy as np
import pytest

from difflab.report.timing import linear_fit, ratio, timing


def said(sentences: list[str]) -> str:
    return " ".join(sentences).replace("\u00a0", " ")


def test_times_that_bend_are_not_called_linear(steps_result):
    """R² stays above 0.98 where the cheapest cells lie far from the line."""
    bent = steps_result(4.0, 3.0, 2.0, 1.0, 0.9, seconds=lambda s: s.steps * (0.6 if s.steps <= 20 else 1.0) * s.count)
    assert linear_fit(bent).r2 > 0.98
    assert "does not describe" in said(timing(bent))


def test_fit_recovers_the_line_that_made_the_times(steps_result):
    result = steps_result(4.0, 3.0, 2.0, 1.0, seconds=lambda s: s.count * (0.002 * s.steps + 0.01))
    fit = linear_fit(result)
    assert (fit.slope, fit.intercept, fit.r2) == pytest.approx((0.002, 0.01, 1.0))
    assert "linear in the number of network calls: 2.0 ms per call" in said(timing(result))


def test_curved_times_are_not_called_linear(steps_result):
    text = said(timing(steps_result(4.0, 3.0, 2.0, 1.0, seconds=lambda s: 1.0 / s.steps)))
    assert "linear" not in text
    assert "does not describe these sampling times well" in text


def test_two_step_counts_are_too_few_for_a_line(steps_result):
    assert linear_fit(steps_result(2.0, 1.0, seconds=lambda s: s.steps)) is None


def eta_times(make_result, slower: float, noise: float, chunks: int = 8):
    """Two etas at three numbers of calls; eta 1 takes `slower` times as long, chunks vary by `noise`."""
    rng = np.random.default_rng(0)

    def each(settings) -> list[float]:
        times = settings.steps * (slower if settings.eta else 1.0) * np.exp(noise * rng.normal(size=chunks))
        return times.tolist()

    cells = {(eta, steps): 1.0 for eta in (0.0, 1.0) for steps in (10, 20, 50)}
    return make_result({"eta": [0.0, 1.0], "steps": [10, 20, 50]}, cells, turns=each)


@pytest.mark.parametrize(
    ("slower", "noise", "words"),
    [
        (1.0, 0.02, "hardly any difference, if there is one"),
        (1.05, 0.01, "a difference, but of less than a tenth"),
        (1.5, 0.02, "the two differ"),
        (1.0, 0.5, "a difference, if there is one, is hardly above "),
        (1.0, 2.0, "these times do not tell whether they differ"),
    ],
)
def test_dependence_of_time_on_eta_is_judged_with_its_interval(make_result, slower, noise, words):
    assert words in said(timing(eta_times(make_result, slower, noise)))


def test_the_interval_of_the_ratio_covers_the_truth(make_result):
    found = ratio(eta_times(make_result, 1.3, 0.1), "eta")
    assert (found.a, found.b, found.pairs) == (0.0, 1.0, 24)
    assert found.low < 1.3 < found.high
    assert found.high / found.low < 1.2


def test_what_slows_both_cells_of_a_turn_does_not_widen_the_interval(make_result):
    """Batches are paired by turn: a machine that is busy for a while delays both alike."""
    load = iter([1.0, 5.0, 2.0] * 6)
    cells = {(eta, steps): 1.0 for eta in (0.0, 1.0) for steps in (10, 20, 50)}
    batches = [next(load) for _ in range(3)]
    result = make_result(
        {"eta": [0.0, 1.0], "steps": [10, 20, 50]},
        cells,
        turns=lambda s: [s.steps * (1.0 + 0.1 * s.eta) * busy for busy in batches],
    )
    found = ratio(result, "eta")
    assert found.low == pytest.approx(1.1)
    assert found.high == pytest.approx(1.1)


def test_chunks_of_different_runs_are_not_paired(make_result):
    """They may be of another machine, another day, or drawn in other batches."""
    result = eta_times(make_result, 1.0, 0.1)
    rows = [
        row.model_copy(
            update={"turns": [turn.model_copy(update={"run": f"eta {row.settings.eta}"}) for turn in row.turns]}
        )
        for row in result.rows
    ]
    assert ratio(result.model_copy(update={"rows": rows}), "eta") is None


def test_times_that_bend_one_way_with_each_eta_are_not_called_linear(make_result):
    """Pooled over eta the two bends cancel, and either runs within the spread of both."""
    cells = {(eta, steps): 1.0 for eta in (0.0, 1.0) for steps in (10, 20, 50)}
    bends = {(0.0, 10): 1.5, (1.0, 10): 0.6}
    result = make_result(
        {"eta": [0.0, 1.0], "steps": [10, 20, 50]},
        cells,
        turns=lambda s: [s.steps * bends.get((s.eta, s.steps), 1.0) * wobble for wobble in (0.99, 1.0, 1.01)],
    )
    assert "does not describe" in said(timing(result))


def test_a_line_within_the_intervals_of_every_cell_is_straight(steps_result):
    """Medians of a noisy machine lie off the line, which still runs through what chance leaves open."""
    noisy = {10: [11.0, 16.0, 17.0], 20: [19.0, 21.0, 26.0], 50: [44.0, 50.0, 56.0], 100: [95.0, 100.0, 130.0]}
    assert linear_fit(steps_result(4.0, 3.0, 2.0, 1.0, turns=lambda s: noisy[s.steps])).straight
    tight = {steps: [times[1]] for steps, times in noisy.items()}
    assert not linear_fit(steps_result(4.0, 3.0, 2.0, 1.0, turns=lambda s: tight[s.steps])).straight
