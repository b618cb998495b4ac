"""Verdicts on what papers found, on numbers chosen so that the right verdict is known."""

import pytest

from difflab.report.claims import (
    RULE,
    Check,
    Claim,
    Found,
    Judged,
    as_long,
    better,
    claims_table,
    falling_returns,
    judged,
)
from difflab.report.curves import curves
from difflab.report.literature import CLAIMS
from difflab.report.timing import Ratio


@pytest.mark.parametrize(
    ("sides", "verdict"),
    [
        ([], "not tried here"),
        (["for", "for"], "agrees"),
        (["for", "open"], "cannot be told"),
        (["for", "open", "against"], "disagrees"),
    ],
)
def test_one_against_disagrees_and_all_must_be_for(sides, verdict):
    claim = Claim("It is so.", against="of this.", unclear="of that.")
    one = Judged(claim, [Check("Measured.", side) for side in sides])
    assert one.verdict == verdict
    assert one.guess == {"disagrees": "of this.", "cannot be told": "of that."}.get(verdict, "")


@pytest.mark.parametrize(("values", "side"), [((5.0, 4.0), "for"), ((5.0, 4.95), "open"), ((4.0, 5.0), "against")])
def test_the_paired_interval_decides(steps_result, values, side):
    result = steps_result(*values, half=2.0, paired=0.1)
    assert better(result, "fid", *result.rows).side == side


@pytest.mark.parametrize(
    ("values", "side"),
    [((20.0, 10.0, 9.5), "for"), ((20.0, 18.0, 2.0), "against"), ((20.0, 15.0, 8.5), "open")],
)
def test_returns_fall_where_a_doubling_gains_less_at_last(steps_result, values, side):
    """From 10 to 20 steps is one doubling, from 20 to 50 are log2(2.5) = 1.32."""
    result = steps_result(*values, paired=0.5)
    (test,) = falling_returns(result, "fid", curves(result.rows, "steps")[0])
    assert test.side == side
    if side == "open":  # 6.5 in 1.32 doublings are 4.9 each
        assert "gains 5.0" in test.measured
        assert "and gains 4.9 [4.5, 5.3] from 20\u00a0steps on" in test.measured


@pytest.mark.parametrize(
    ("low", "high", "side"), [(0.95, 1.05, "for"), (0.8, 1.3, "open"), (1.2, 1.3, "against"), (0.95, 1.15, "open")]
)
def test_as_long_means_within_a_tenth(low, high, side):
    assert as_long("eta", Ratio(0.0, 1.0, (low + high) / 2, low, high, 9)).side == side
    doubled = Ratio(4, 8, low + high, 2 * low, 2 * high, 9)
    assert as_long("frames", doubled, expected=2.0).side == side


def eta_study(make_result, few, many):
    values = {
        (eta, steps): v for steps, row in ((10, few), (100, many)) for eta, v in zip((0.0, 1.0), row, strict=True)
    }
    return make_result({"eta": [0.0, 1.0], "steps": [10, 100]}, values, name="ddim-eta", paired=0.5)


@pytest.mark.parametrize(
    ("few", "many", "verdicts"),
    [
        ((13.0, 41.0), (4.0, 6.0), ["agrees", "agrees"]),
        ((13.0, 10.0), (4.0, 4.0), ["disagrees", "agrees"]),
        ((13.0, 15.0), (4.0, 9.0), ["agrees", "disagrees"]),
        ((13.0, 13.1), (4.0, 4.0), ["cannot be told", "cannot be told"]),
    ],
)
def test_eta_is_judged_at_few_steps_and_by_how_its_gap_shrinks(make_result, few, many, verdicts):
    each = judged(CLAIMS["ddim"], Found([eta_study(make_result, few, many)]))
    assert [one.verdict for one in each[2:4]] == verdicts


def test_guidance_is_judged_at_the_papers_scale_and_beyond(make_result):
    values = {(1.0,): 9.6, (1.5,): 2.3, (4.0,): 20.0}
    result = make_result({"guidance": [1.0, 1.5, 4.0]}, values, name="dit-cfg", paired=0.5)
    verdicts = [one.verdict for one in judged(CLAIMS["dit"], Found([result]))]
    assert verdicts[2:4] == ["agrees", "agrees"]
    assert set(verdicts[:2] + verdicts[4:]) == {"not tried here"}


def test_nothing_is_judged_where_no_study_bears_on_it(steps_result):
    assert judged(CLAIMS["ddim"], Found([steps_result(3.0, 2.0)])) == []


def test_table_marks_guesses_and_keeps_its_columns():
    claim = Claim("a | b", lambda found: [Check("Measured.", "open")], unclear="of chance.")
    *_, line = claims_table(judged([claim], Found([]))).splitlines()
    assert line == "| a \\| b | Measured. | **?\u00a0cannot be told.** *Perhaps of chance.* |"
    assert "What follows “Perhaps” is a guess" in RULE


@pytest.mark.parametrize("claim", [claim for claims in CLAIMS.values() for claim in claims if claim.against])
def test_guesses_read_on_after_perhaps(claim):
    for guess in (claim.against, claim.unclear):
        assert guess[0].islower()
        assert guess.endswith(".")
