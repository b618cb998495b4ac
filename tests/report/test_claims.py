"""Verdicts on what papers found, on numbers chosen so that the right verdict is known."""

import math

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
    [
        ((20.0, 10.0, 9.5), "for"),
        ((20.0, 18.0, 2.0), "against"),
        ((20.0, 15.0, 8.5), "open"),
        ((20.0, 20.05, 16.0), "against"),  # nothing, then 3 a doubling
        ((20.0, 19.95, 16.0), "against"),
        ((20.0, 23.0, 21.7), "against"),  # a loss of 3, then a gain of 1
        ((20.0, 17.0, 21.0), "for"),  # a gain of 3, then a loss
    ],
)
def test_returns_fall_where_a_doubling_gains_less_at_last(steps_result, values, side):
    """From 10 to 20 steps is one doubling, from 20 to 50 are log2(2.5) = 1.32."""
    result = steps_result(*values, paired=0.5)
    (check,) = falling_returns(result, "fid", curves(result.rows, "steps")[0])
    assert check.side == side
    if side == "open":  # 6.5 in 1.32 doublings are 4.9 each
        assert "gains 5.0" in check.measured
        assert "and gains 4.9 [4.5, 5.3] from 20\u00a0steps on" in check.measured


def test_returns_of_a_score_that_should_be_high_are_gains_too(steps_result):
    result = steps_result(0.1, 0.5, 0.52, paired=0.05, metric="precision")
    (check,) = falling_returns(result, "precision", curves(result.rows, "steps")[0])
    assert check.side == "for"


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
        ((13.0, 10.0), (4.0, 4.0), ["disagrees", "disagrees"]),
        ((13.0, 10.0), (4.0, 9.0), ["disagrees", "disagrees"]),
        ((13.0, 23.0), (24.0, 4.0), ["agrees", "disagrees"]),
        ((13.0, 23.0), (9.0, 4.0), ["agrees", "agrees"]),
        ((13.0, 15.0), (4.0, 9.0), ["agrees", "disagrees"]),
        ((13.0, 13.1), (4.0, 4.0), ["cannot be told", "cannot be told"]),
    ],
)
def test_eta_is_judged_at_few_steps_and_by_how_its_gap_shrinks(make_result, few, many, verdicts):
    each = judged(CLAIMS["ddim"], Found([eta_study(make_result, few, many)]))
    assert [one.verdict for one in each[2:4]] == verdicts


def test_no_noise_must_beat_every_noise_at_the_fewest_steps(make_result):
    few, many = {0.0: 13.0, 0.2: 12.0, 1.0: 41.0}, {0.0: 4.0, 0.2: 5.0, 1.0: 6.0}
    values = {(eta, steps): row[eta] for steps, row in ((10, few), (100, many)) for eta in few}
    result = make_result({"eta": list(few), "steps": [10, 100]}, values, name="ddim-eta", paired=0.5)
    none = judged(CLAIMS["ddim"], Found([result]))[2]
    assert [check.side for check in none.checks] == ["against", "for"]


def test_guidance_is_judged_at_the_papers_scale_and_beyond(make_result):
    values = {(1.0,): 9.6, (1.5,): 2.3, (4.0,): 20.0}
    result = make_result({"guidance": [1.0, 1.5, 4.0]}, values, name="dit-cfg", paired=0.5)
    verdicts = [one.verdict for one in judged(CLAIMS["dit"], Found([result]))]
    assert verdicts[2:4] == ["agrees", "agrees"]
    assert set(verdicts[:2] + verdicts[4:]) == {"not tried here"}


def test_conditioning_is_judged_by_loss_and_by_fd(make_learning):
    """Gaps of seeds are all alike, so each is clear: adaLN-Zero leads by loss; by FD, drawn guided, adaLN does."""
    losses = {
        name: [[base, base + 0.01, base + 0.02]]
        for name, base in (("adaLN-Zero", 0.1), ("adaLN", 0.2), ("cross-attention", 0.3), ("in-context", 0.4))
    }

    def verdicts(fid):
        learning = make_learning(losses, fid, name="dit-conditioning", draw={"guidance": 2.0})
        return judged(CLAIMS["dit"], Found([], [learning]))[5:7]

    assert [one.verdict for one in verdicts(lambda name, loss: 100 * loss)] == ["agrees", "agrees"]
    zero, rest = verdicts(lambda name, loss: -loss if name == "adaLN" else loss)
    assert [check.side for check in zero.checks] == ["for", "for", "for", "against", "for", "for"]
    assert rest.verdict == "agrees"
    assert "Our samples are drawn at guidance scale 2, the paper’s without guidance." in rest.checks[-1].measured


def test_second_order_is_judged_at_the_papers_calls(make_result):
    values = {(calls, name): v for calls in (10, 20) for name, v in (("ddim", 9.0), ("dpmpp-2m", 2.0 * calls / 10))}
    result = make_result({"calls": [10, 20], "sampler": ["ddim", "dpmpp-2m"]}, values, name="samplers", paired=0.5)
    (one,) = judged(CLAIMS["samplers"], Found([result]))
    assert (len(one.checks), one.verdict) == (1, "agrees")
    assert one.checks[0].measured.endswith("Ours is without guidance.")


def test_all_studies_that_bear_on_a_finding_are_judged_and_named(make_result):
    values = {(1.0,): 9.6, (1.5,): 2.3}
    one = make_result({"guidance": [1.0, 1.5]}, values, name="dit-cfg", paired=0.5)
    two = make_result({"guidance": [1.0, 1.5]}, {(1.0,): 2.3, (1.5,): 9.6}, name="my-dit-cfg", paired=0.5)
    some = judged(CLAIMS["dit"], Found([one, two]))[2]
    assert [check.side for check in some.checks] == ["for", "against"]
    assert [check.measured.split(":")[0] for check in some.checks] == ["dit-cfg", "my-dit-cfg"]
    other = two.model_copy(update={"study": two.study.model_copy(update={"model": "other"})})
    assert judged(CLAIMS["dit"], Found([one, other]))[2].checks[1].measured.startswith("my-dit-cfg with other: ")


def test_a_row_points_to_the_note_of_its_study(make_result):
    result = make_result({"guidance": [1.0, 1.5]}, {(1.0,): 9.6, (1.5,): 2.3}, name="dit-cfg", paired=0.5)
    noted = result.model_copy(update={"study": result.study.model_copy(update={"remark": "Mind this."})})
    for which, ending in ((noted, "(Read the note of dit-cfg.)"), (result, "(paired difference −7.3 [−7.8, −6.8]).")):
        assert judged(CLAIMS["dit"], Found([which]))[2].checks[0].measured.endswith(ending)


def test_too_few_chunks_are_told_and_not_guessed(make_result):
    result = make_result(
        {"frames": [4, 8]}, {(4,): 1.0, (8,): 1.0}, name="vdm-frames", seconds=lambda settings: settings.frames or 1
    )
    time = judged(CLAIMS["vdm"], Found([result]))[3]
    assert (time.verdict, time.guess) == ("cannot be told", "")
    assert time.checks[0].measured.endswith("from too few chunks for an interval: take more chunks.")


@pytest.mark.parametrize(
    ("off", "noise", "side"), [(1.0, 0.01, "for"), (1.6, 0.01, "against"), (1.6, 0.9, "open"), (1.6, None, "open")]
)
def test_time_is_bent_only_where_scatter_does_not_explain_it(steps_result, off, noise, side):
    """20 steps take `off` times as long as the line has it, in chunks that scatter by `noise`; None: in one chunk."""

    def turns(settings):
        each = 1e-3 * settings.steps * (off if settings.steps == 20 else 1.0)
        return [each] if noise is None else [each, each * math.exp(noise), each * math.exp(-noise)]

    found = Found([steps_result(3.0, 3.0, 3.0, 3.0, name="ddim-steps", turns=turns)])
    assert [check.side for check in judged(CLAIMS["ddim"], found)[4].checks] == [side]


def test_time_is_judged_in_both_studies_of_steps(make_result, steps_result):
    def turns(settings):
        return [1e-3 * settings.steps] * 3

    steps = steps_result(4.0, 3.0, 2.0, name="ddim-steps", turns=turns)
    values = {(eta, n): 1.0 for eta in (0.0, 1.0) for n in (10, 20, 50)}
    eta = make_result({"eta": [0.0, 1.0], "steps": [10, 20, 50]}, values, name="ddim-eta", turns=turns)
    checks = judged(CLAIMS["ddim"], Found([eta, steps]))[4].checks
    assert [check.measured.split(":")[0] for check in checks] == ["ddim-steps", "ddim-eta"]


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
