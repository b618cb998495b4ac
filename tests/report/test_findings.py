"""The sentences, on results whose numbers are chosen so that the right sentence is known."""

import re

import pytest

from difflab.report.curves import compare, curves
from difflab.report.effects import choices, contrast
from difflab.report.findings import findings, headline
from difflab.report.trend import knee, trend
from difflab.study.result import Score


def said(sentences):
    return " ".join([sentences] if isinstance(sentences, str) else sentences).replace("\u00a0", " ")


def line(result, along="steps"):
    return curves([row for row in result.rows if not row.error], along)[0]


def test_monotone_gain_is_told_with_both_ends_and_the_paired_difference(steps_result):
    result = steps_result(20.0, 10.0, 5.0, paired=0.5)
    text = said(trend(result, "fid", line(result)))
    assert text.startswith("From 10 steps to 50 steps FD falls from 20.00 [19.90, 20.10] to 5.00 [4.90, 5.10]")
    assert "paired difference −15.0 [−15.5, −14.5]" in text
    assert "Both pairs of neighbours differ" in text


def test_worsening_is_said_to_rise(steps_result):
    result = steps_result(5.0, 6.0, 8.0)
    assert " rises " in trend(result, "fid", line(result))


def test_flat_curve_claims_no_change(steps_result):
    result = steps_result(5.0, 5.1, 4.95, half=0.5)
    text = said(trend(result, "fid", line(result)))
    assert "does not change clearly" in text
    assert "intervals overlap" in text
    assert not re.search("falls|rises|improves", text)


def test_paired_interval_decides_where_the_scores_own_intervals_overlap(steps_result):
    result = steps_result(5.0, 4.5, half=1.0, paired=0.1)
    assert " falls " in trend(result, "fid", line(result))
    unpaired = steps_result(5.0, 4.5, half=1.0)
    assert "does not change clearly" in trend(unpaired, "fid", line(unpaired))


def test_a_best_setting_between_two_clearly_worse_ends_is_told_with_both_gains(steps_result):
    result = steps_result(10.0, 5.0, 12.0)
    text = said(trend(result, "fid", line(result)))
    assert "FD has its best value inside: 5.00 [4.90, 5.10] at 20 steps, clearly better by 5.0" in text
    assert "and by 7.0" in text
    assert "inside" not in said(trend(steps_result(10.0, 5.0, 5.05), "fid", line(steps_result(10.0, 5.0, 5.05))))


def test_a_best_setting_of_several_inner_ones_is_said_to_be_picked(steps_result):
    result = steps_result(10.0, 7.0, 5.0, 12.0)
    assert "5.00 [4.90, 5.10] at 50 steps, picked as the best of 4, clearly" in said(trend(result, "fid", line(result)))
    few = steps_result(10.0, 5.0, 12.0)
    assert "picked" not in said(trend(few, "fid", line(few)))


def test_clear_changes_both_ways_are_not_called_a_trend(steps_result):
    result = steps_result(5.0, 12.0, 6.0)
    text = said(trend(result, "fid", line(result)))
    assert "does not move one way" in text
    assert "best at 10 steps, 5.0" in text


def test_neighbours_within_their_error_bars_are_named(steps_result):
    result = steps_result(20.0, 10.0, 9.95)
    text = said(trend(result, "fid", line(result)))
    assert "Neighbours that cannot be told apart: 20 and 50." in text


def test_one_cell_makes_no_trend(steps_result):
    result = steps_result(7.0)
    assert said(findings(result)) == "Only 10 steps has a score: FD is 7.00 [6.90, 7.10]."


@pytest.mark.parametrize(
    ("values", "half", "at", "hidden"),
    [
        ((20.0, 10.0, 9.9, 9.95), 0.3, 20, True),
        ((20.0, 10.0, 9.5, 9.3), 0.01, 20, False),
        ((5.0, 5.0, 5.0, 5.0), 0.5, 10, True),
        ((20.0, 10.0, 5.0, 2.5), 0.1, None, None),
        ((20.0, 10.0, 9.9, 5.0), 0.1, None, None),
    ],
)
def test_knee_is_the_first_setting_after_which_nothing_clear_and_large_is_gained(
    steps_result, values, half, at, hidden
):
    result = steps_result(*values, half=half)
    found = knee(result, "fid", line(result))
    assert (found.row.settings.steps if found else None) == at
    assert (found.hidden if found else None) == hidden


def test_a_knee_is_marked_only_where_the_step_to_it_is_clear(steps_result):
    """From 10 to 20 and from 20 to 50 nothing is clear, from 10 to 50 it is."""
    result = steps_result(10.0, 9.0, 8.0, 7.9, half=0.6)
    found = knee(result, "fid", line(result))
    assert (found.row.settings.steps, found.sharp) == (20, False)
    assert "Where the knee lies cannot be told: no step to 20 steps is clear by itself" in said(findings(result))
    sharp = steps_result(20.0, 10.0, 9.9, 9.95, half=0.3)
    assert knee(sharp, "fid", line(sharp)).sharp


@pytest.mark.parametrize(
    ("metric", "floor", "told"),
    [
        ("fid", 1.0, "1.00 [0.90, 1.10]: the best falls short of that"),
        ("fid", 3.95, "3.95 [3.85, 4.05]: the best cannot be told from that"),
        ("fid", 9.0, "9.00 [8.90, 9.10]: the best is beyond that, nearer to the reference than samples drawn apart"),
        ("is", 9.0, "9.00 [8.90, 9.10]: the best is beyond that, higher than real samples’."),
        ("precision", 9.0, "9.00 [8.90, 9.10]: the best is beyond that, more than real samples have."),
        ("precision", 30.0, "30.00 [29.90, 30.10]: the best falls short of that"),
    ],
)
def test_the_best_is_set_beside_real_samples(steps_result, metric, floor, told):
    result = steps_result(20.0, 10.0, 4.0, metric=metric)
    real = Score(value=floor, low=floor - 0.1, high=floor + 0.1, n=100)
    text = said(findings(result.model_copy(update={"floors": {metric: real}})))
    assert f"As many real samples score {told}" in text


@pytest.mark.parametrize(("floor", "told"), [(3.95, "cannot be told from that"), (3.8, "falls short of that")])
def test_many_sets_of_real_samples_tell_more_than_the_best_scores_own_interval(steps_result, floor, told):
    """4.0 [3.9, 4.1] beside real samples that score up to 4.05, or up to 3.9."""
    result = steps_result(20.0, 10.0, 4.0)
    real = Score(value=floor, low=floor - 0.1, high=floor + 0.1, n=100, sets=8)
    text = said(findings(result.model_copy(update={"floors": {"fid": real}})))
    assert f"8 sets of as many real samples score {floor:.2f}" in text
    assert f"the best {told}." in text


def test_small_clear_gain_beyond_the_knee_is_quantified(steps_result):
    assert "The knee is at 20 steps: the best of what follows improves by an estimated 7.0 %." in said(
        findings(steps_result(20.0, 10.0, 9.5, 9.3, half=0.01))
    )


def test_a_gain_to_the_last_setting_is_an_estimate_with_its_interval(steps_result):
    """From 8 to 6 are 25 % of 8; its paired half width, 1, is 12.5 % of 8."""
    paired = said(findings(steps_result(20.0, 8.0, 6.0, paired=1.0)))
    assert "from 20 steps to 50 steps it still improves clearly, by an estimated 25 % [12, 38]." in paired
    assert "by an estimated 25 %." in said(findings(steps_result(20.0, 8.0, 6.0, half=0.1)))


def test_a_knee_after_which_nothing_is_clear_is_put_there(steps_result):
    text = said(findings(steps_result(20.0, 10.0, 9.9, 9.95, half=0.3)))
    assert "The knee is put at 20 steps: no improvement can be shown beyond it with 100 samples a cell." in text


def test_two_settings_have_no_knee(steps_result):
    assert "knee" not in said(findings(steps_result(10.0, 5.0)))


def test_best_cell_names_those_that_cannot_be_told_from_it(steps_result):
    assert "at 100 steps; 50 steps cannot be told from it" in said(findings(steps_result(20.0, 10.0, 5.1, 5.0)))
    assert "every other setting is clearly worse" in said(findings(steps_result(20.0, 10.0, 5.0)))
    assert "no other setting can be told from it" in said(findings(steps_result(5.0, 5.1, 5.05)))


def test_best_share_of_valid_samples_is_the_highest(steps_result):
    text = said(findings(steps_result(0.5, 0.9, 0.95, metric="valid", half=0.01)))
    assert "The best share of valid samples is 95.0 %" in text
    assert "rises from 50.0 %" in text


def test_failed_cell_is_counted_and_not_compared(steps_result):
    text = said(findings(steps_result(20.0, None, 5.0)))
    assert "1 of 3 cells failed and is missing from the figures: 20 steps." in text
    assert "From 10 steps to 50 steps FD falls" in text


def test_study_without_a_single_score_finds_only_its_failures(steps_result):
    assert said(findings(steps_result(None, None))).startswith("2 of 2 cells failed")


def eta_result(make_result, few, many, **options):
    values = {(eta, 10): v for eta, v in zip((0.0, 1.0), few, strict=True)}
    values |= {(eta, 100): v for eta, v in zip((0.0, 1.0), many, strict=True)}
    return make_result({"eta": [0.0, 1.0], "steps": [10, 100]}, values, **options)


def test_effect_of_eta_is_compared_between_few_and_many_steps(make_result):
    text = said(contrast(eta_result(make_result, (13.0, 41.0), (4.0, 6.0), paired=0.1), "fid"))
    assert "Going from eta 0 to eta 1 worsens FD by 28.00 [27.90, 28.10] at 10 steps" in text
    assert "by 2.00 [1.90, 2.10] at 100 steps" in text
    assert "The effect is 14 times as large at 10 steps." in text


def test_effect_within_its_error_bars_is_not_claimed(make_result):
    text = said(contrast(eta_result(make_result, (13.0, 41.0), (4.0, 4.05), paired=0.1), "fid"))
    assert "worsens FD by 28.0" in text
    assert (
        "does not change it clearly (the paired difference’s 95 % interval [−0.05, 0.15] contains zero) at 100 steps"
        in text
    )
    assert "times as large" not in text


def test_ratio_of_effects_needs_paired_intervals_that_are_apart(make_result):
    assert "times as large" not in contrast(eta_result(make_result, (13.0, 41.0), (4.0, 6.0)), "fid")
    assert "times as large" not in contrast(eta_result(make_result, (13.0, 16.0), (4.0, 6.0), paired=0.9), "fid")


def test_contrast_needs_two_axes_of_numbers(make_result, steps_result):
    assert contrast(steps_result(3.0, 2.0), "fid") is None
    samplers = make_result(
        {"sampler": ["ddim", "ddpm"], "steps": [10, 20]},
        {("ddim", 10): 1.0, ("ddim", 20): 1.0, ("ddpm", 10): 1.0, ("ddpm", 20): 1.0},
    )
    assert contrast(samplers, "fid") is None


def test_named_settings_are_listed_without_an_order(make_result):
    result = make_result({"sampler": ["ddim", "ddpm"]}, {("ddim",): 3.0, ("ddpm",): 9.0})
    assert "they differ clearly" in trend(result, "fid", line(result, "sampler"))


def grid_result(make_result, trailing, uniform, **options):
    axes = {"steps": [5, 10, 20], "spacing": ["trailing", "uniform"]}
    values = {
        (s, n): v
        for n, row in (("trailing", trailing), ("uniform", uniform))
        for s, v in zip((5, 10, 20), row, strict=True)
    }
    return make_result(axes, values, **options)


def test_names_on_the_second_axis_are_compared_at_each_place_of_the_first(make_result):
    text = said(choices(grid_result(make_result, (3.0, 2.0, 1.0), (9.0, 1.5, 1.01), paired=0.1), "fid"))
    assert text == (
        "FD is clearly better with trailing than with uniform at 5 steps (6.00 [5.90, 6.10]); FD is clearly better "
        "with uniform than with trailing at 10 steps (0.50 [0.40, 0.60]); at 20 steps trailing and uniform cannot be "
        "told apart by FD."
    )


def test_of_many_names_the_best_is_told_at_each_place(make_result):
    names, values = ["ddim", "ddpm", "heun", "unipc"], {5: (4.0, 9.0, 4.05, 5.0), 20: (2.0, 2.0, 2.0, 1.0)}
    cells = {(calls, name): v for calls, row in values.items() for name, v in zip(names, row, strict=True)}
    result = make_result({"calls": [5, 20], "sampler": names}, cells, paired=0.1)
    assert said(choices(result, "fid")) == (
        "At 5 calls FD is best with ddim, 4.00 [3.90, 4.10]; heun cannot be told from it; ddpm and unipc are clearly "
        "worse. At 20 calls FD is best with unipc, 1.00 [0.90, 1.10]; ddim, ddpm and heun are clearly worse."
    )
    assert not any("Along" in sentence or sentence.startswith("At sampler") for sentence in findings(result))


def test_numbers_on_the_second_axis_are_no_choice(make_result):
    values = {(s, e): 1.0 for s in (5, 10) for e in (0.0, 1.0)}
    assert choices(make_result({"steps": [5, 10], "eta": [0.0, 1.0]}, values), "fid") == []


def test_headline_points_to_the_note_of_a_study(steps_result):
    result = steps_result(20.0, 10.0, 5.0)
    assert "note" not in said(headline([result]))
    noted = result.model_copy(update={"study": result.study.model_copy(update={"remark": "Chosen after a look."})})
    assert said(headline([noted])).endswith("(Read the note of study with this.)")


def test_headline_has_a_sentence_of_each_study(make_result, steps_result):
    text = said(
        headline([steps_result(20.0, 10.0, 5.0), eta_result(make_result, (13.0, 41.0), (4.0, 6.0), paired=0.1)])
    )
    assert "FD falls from 20.0" in text
    assert "worsens FD by 28.00 at 10 steps and by 2.00 at 100 steps" in text


def test_comparison_reads_a_stored_difference_in_either_direction(steps_result):
    result = steps_result(9.0, 5.0, paired=0.5)
    first, last = result.rows
    there, back = compare(result, "fid", first, last), compare(result, "fid", last, first)
    assert (there.change, there.low, there.high, there.better) == (-4.0, -4.5, -3.5, True)
    assert (back.change, back.low, back.high, back.better) == (4.0, 3.5, 4.5, False)
