import pytest

from difflab.report import words
from difflab.study.result import Score


@pytest.mark.parametrize(
    ("value", "low", "high", "shown"),
    [
        (4.6712345, 4.61, 4.74, ("4.67", "[4.61, 4.74]")),
        (13.3612, 12.9, 13.8, ("13.4", "[12.9, 13.8]")),
        (367.43, 340.0, 395.0, ("367", "[340, 395]")),
        (0.0123456, 0.0101, 0.0143, ("0.0123", "[0.0101, 0.0143]")),
        (-0.5, -0.9, -0.1, ("−0.5", "[−0.9, −0.1]")),
    ],
)
def test_score_shows_as_many_digits_as_its_interval_supports(value, low, high, shown):
    assert words.score_text("fid", Score(value=value, low=low, high=high, n=10)) == shown


def test_no_score_has_more_than_four_digits_however_narrow_its_interval():
    text, _ = words.score_text("fid", Score(value=12.3456789, low=12.3456788, high=12.3456790, n=10))
    assert text == "12.35"


@pytest.mark.parametrize(
    ("value", "low", "high", "shown"),
    [
        (0.5, 0.1, 0.9, "0.5 [0.1, 0.9]"),
        (0.5, 0.012, 1.0, "0.50 [0.01, 1.00]"),
        (-0.5, -1.0, -0.0004, "−0.5000 [−1.0000, −0.0004]"),
        (0.5, 0.0, 1.0, "0.5 [0.0, 1.0]"),
    ],
)
def test_an_end_that_is_not_zero_is_not_shown_as_zero(value, low, high, shown):
    assert words.with_interval(value, low, high) == shown


def test_valid_share_is_shown_in_percent():
    assert words.score_text("valid", Score(value=0.931, low=0.91, high=0.95, n=10)) == ("93.1\u00a0%", "[91.0, 95.0]")


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0.0000042, "4.2 µs"),
        (0.0019, "1.9 ms"),
        (0.9996, "1.0 s"),
        (59.7, "1 min 00 s"),
        (2.44, "2.4 s"),
        (185.0, "3 min 05 s"),
        (4320.0, "1 h 12 min"),
        (0.0, "–"),
    ],
)
def test_duration_takes_the_readers_unit(seconds, shown):
    assert words.duration(seconds) == shown


@pytest.mark.parametrize(
    ("value", "digits", "shown"),
    [(9.99, 2, "10"), (0.0456, 2, "0.046"), (1234.0, 2, "1,200"), (0.0, 2, "0"), (-3.14, 2, "−3.1")],
)
def test_significant_keeps_its_digits_over_a_power_of_ten(value, digits, shown):
    assert words.significant(value, digits) == shown


def test_fixed_writes_no_minus_zero():
    assert words.fixed(-0.001, 2) == "0.00"


def test_settings_read_as_words():
    assert words.settings({"eta": 0.2, "steps": 50}).replace("\u00a0", " ") == "eta 0.2 with 50 steps"
    assert words.setting("steps", 1) == "1\u00a0step"
    assert words.setting("sampler", "ddpm-noisy") == "sampler ddpm-noisy"


def test_listed_joins_with_commas_and_an_and():
    assert [words.listed("a"), words.listed("ab"), words.listed("abc")] == ["a", "a and b", "a, b and c"]
