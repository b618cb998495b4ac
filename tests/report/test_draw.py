import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from difflab.report import draw
from difflab.report.curves import curves
from difflab.report.palette import COLOURS, Palette
from difflab.report.timing import linear_fit
from difflab.report.trend import knee
from difflab.study.result import Score
from difflab.study.spec import Settings

SVG = "{http://www.w3.org/2000/svg}"


def texts(svg):
    return ["".join(node.itertext()) for node in ElementTree.fromstring(svg).iter(f"{SVG}text")]


@pytest.fixture
def grid(make_result):
    values = {(eta, steps): (1 + eta) * 100.0 / steps for eta in (0.0, 0.5, 1.0) for steps in (5, 10, 100)}
    return make_result(
        {"eta": [0.0, 0.5, 1.0], "steps": [5, 10, 100]}, values, seconds=lambda s: s.steps * 0.5, pictures=3
    )


def test_axes_are_named_with_units_and_curves_with_settings(grid):
    quality = texts(draw.quality_curve(grid, "fid", Palette([grid])))
    assert "FD (shapes-image), lower is better, log scale" in quality
    assert {"5\u00a0steps", "10\u00a0steps", "100\u00a0steps"} <= set(quality)
    cost = texts(draw.quality_time(grid, "fid", Palette([grid])))
    assert "sampling time (milliseconds per sample)" in cost
    assert {"eta\u00a00", "eta\u00a00.5", "eta\u00a01"} <= set(cost)


def test_ticks_stand_at_the_settings(steps_result):
    result = steps_result(4.0, 3.0, 2.0, 1.0)
    assert {"10", "20", "50", "100"} <= set(texts(draw.quality_curve(result, "fid", Palette([result]))))


def test_tick_labels_that_would_run_into_one_another_are_left_out(make_result):
    scales = [1.0, 1.25, 1.5, 2.0, 3.0, 4.0]
    result = make_result({"guidance": scales}, {(s,): 1.0 + s for s in scales})
    shown = texts(draw.quality_curve(result, "fid", Palette([result])))
    ticks = shown[: shown.index("4") + 1]
    assert ticks == ["1", "1.5", "2", "3", "4"]


def test_setting_looks_the_same_in_every_study(grid, steps_result):
    lone = steps_result(3.0, 2.0)
    palette = Palette([lone, grid])
    by_eta = {line.setting["eta"]: palette.look(grid, line) for line in curves(grid.rows, "steps")}
    assert palette.look(lone, curves(lone.rows, "steps")[0]) == by_eta[0.0]


def test_curves_differ_in_more_than_colour(grid):
    looks = [Palette([grid]).look(grid, line) for line in curves(grid.rows, "steps")]
    assert (
        len({look.colour for look in looks})
        == len({look.marker for look in looks})
        == len({look.line for look in looks})
        == 3
    )


def _luminance(colour):
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return float(np.dot((0.2126, 0.7152, 0.0722), linear))


@pytest.mark.parametrize("name", [name for name in COLOURS if name != "rule"])
def test_colours_stand_out_from_both_grounds(name):
    """WCAG 2.1, 1.4.11: graphics need a contrast of 3 to what is behind them."""
    light, dark = (_luminance(colour) for colour in COLOURS[name])
    assert 1.05 / (light + 0.05) >= 2.9
    assert (dark + 0.05) / (_luminance("#16181c") + 0.05) >= 2.9


def test_page_colours_follow_its_theme(grid):
    themed = draw.themed(draw.quality_curve(grid, "fid", Palette([grid])), "fig-1")
    assert "var(--ink)" in themed
    assert not re.search("|".join(light for light, _ in COLOURS.values()), themed)
    assert "#ffffff" not in themed


def test_strip_heads_each_column_and_each_block(grid):
    heads = texts(draw.strip(grid))
    assert heads.count("0.5") == 3
    assert {"5\u00a0steps", "100\u00a0steps"} <= set(heads)


def test_no_strip_without_pictures(steps_result):
    assert draw.strip(steps_result(3.0, 2.0)) is None


def test_headline_marks_the_knee_and_the_values(steps_result):
    result = steps_result(20.0, 10.0, 9.95, 9.9, pictures=2)
    line = curves(result.rows, "steps")[0]
    shown = texts(draw.overview(result, "fid", line, knee(result, "fid", line), Palette([result])))
    assert {"knee", "20.00", "10.00", "10\u00a0steps"} <= set(shown)


def test_headline_names_what_its_curve_was_drawn_with(grid):
    line = curves(grid.rows, "steps")[1]
    shown = texts(draw.overview(grid, "fid", line, None, Palette([grid])))
    assert "eta\u00a00.5" in shown


def test_time_is_drawn_from_zero(grid):
    shown = texts(draw.time_steps(grid, linear_fit(grid), Palette([grid])))
    assert shown.count("0") == 2


def test_rows_of_a_strip_bear_the_classes_of_the_pictures_that_are_there(make_result):
    """Five classes in turn, three pictures kept: rows 0, 1 and 2, not those of five."""
    base = Settings(count=100, classes="balanced")
    values = {(s,): 1.0 for s in (5, 10)}
    result = make_result({"steps": [5, 10]}, values, pictures=3, base=base)
    names = ["red circle", "green circle", "blue circle", "red cross", "blue cross"]
    passport = {"model": {"classes": names}}
    told = result.model_copy(update={"passport": passport})
    shown = [text for text in texts(draw.strip(told)) if text.split()[0] in ("red", "green", "blue")]
    assert {"red", "green", "blue"} == {text.split()[0] for text in shown}
    assert not any("cross" in text for text in texts(draw.strip(told)))
    assert not any("circle" in text for text in texts(draw.strip(result)))


def test_a_floor_has_a_band_and_no_place_below_zero_on_a_log_axis(steps_result):
    result = steps_result(200.0, 20.0, 1.0)
    for low, marked in ((0.5, True), (-0.1, False)):
        floor = Score(value=0.6, low=low, high=0.8, n=100)
        drawn = draw.quality_curve(result.model_copy(update={"floors": {"fid": floor}}), "fid", Palette([result]))
        assert ({"real", "samples"} <= set(texts(drawn)) or "real\nsamples" in texts(drawn)) == marked
