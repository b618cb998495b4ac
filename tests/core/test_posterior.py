from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from difflab.core.loss import hybrid_terms
from difflab.core.posterior import Posteriors, beta, posterior_coefficients, posterior_variance
from difflab.core.prediction import add_noise
from difflab.core.schedule import make_schedule

SCHEDULE = make_schedule("linear", 50)
POSTERIORS = Posteriors.of(SCHEDULE)
GENERATOR = torch.Generator().manual_seed(0)
X0 = torch.rand(6, 2, 4, 4, generator=GENERATOR, dtype=torch.float64).float() * 2 - 1
EPS = torch.randn(6, 2, 4, 4, generator=GENERATOR)
T = torch.tensor([0, 1, 10, 25, 40, 49])


def test_the_posterior_is_bayes_rule_for_three_gaussians():
    """q(x_s | x_t, x0) is proportional to q(x_t | x_s) q(x_s | x0): precisions and precision-weighted means add up."""
    now, nxt = SCHEDULE.point(40), SCHEDULE.point(30)
    a, b = now.alpha / nxt.alpha, beta(now, nxt)
    precision = a**2 / b + 1 / nxt.sigma**2
    assert posterior_variance(now, nxt) == pytest.approx(1 / precision, rel=1e-12)
    on_x0, on_x = posterior_coefficients(now, nxt)
    assert on_x == pytest.approx(a / b / precision, rel=1e-12)
    assert on_x0 == pytest.approx(nxt.alpha / nxt.sigma**2 / precision, rel=1e-12)


def test_the_tables_are_the_steps_of_the_schedule_with_a_first_variance_that_has_a_logarithm():
    for t in (1, 20, 49):
        now, nxt = SCHEDULE.point(t), SCHEDULE.point(t - 1)
        assert math.exp(POSTERIORS.log_small[t]) == pytest.approx(posterior_variance(now, nxt))
        assert math.exp(POSTERIORS.log_large[t]) == pytest.approx(beta(now, nxt))
    assert POSTERIORS.log_small[0] == POSTERIORS.log_small[1]
    assert (POSTERIORS.on_x0[0], POSTERIORS.on_x[0]) == (pytest.approx(1.0), pytest.approx(0.0, abs=1e-12))


def terms(eps_answer, share, t=T):
    """The two terms for a network that answers so."""
    return hybrid_terms(lambda x, t: torch.cat([eps_answer, 2 * share - 1], 1), X0, t, EPS, SCHEDULE, POSTERIORS)


def test_the_right_noise_with_the_posteriors_variance_has_no_divergence():
    found = terms(EPS, torch.zeros_like(EPS))
    assert found.error.abs().max() == 0
    assert found.bound[1:].abs().max() < 1e-5


def test_the_divergence_is_that_of_two_gaussians_in_bits():
    answer, share = EPS + 0.3, torch.full_like(EPS, 0.7)
    found = terms(answer, share)
    at = SCHEDULE.at(T, 4)
    x = add_noise(X0, EPS, at)
    believed = (x - at.sigma * answer) / at.alpha
    on_x0, on_x, small, large = POSTERIORS.at(T, 4)
    normal = torch.distributions.Normal
    truth = normal(on_x0 * X0 + on_x * x, (0.5 * small).exp())
    model = normal(on_x0 * believed + on_x * x, (0.5 * (0.7 * large + 0.3 * small)).exp())
    exact = torch.distributions.kl_divergence(truth, model).flatten(1).mean(1) / math.log(2)
    torch.testing.assert_close(found.bound[1:], exact[1:], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found.error, torch.full((6,), 0.09))


def test_the_bound_of_the_last_step_is_the_price_of_the_grey_levels():
    """The sharper the belief, the fewer bits a right one costs and the more a wrong one, and none costs less than 0."""
    mean_right, mean_wrong, narrow, wide = EPS, EPS + 3.0 / SCHEDULE.point(0).sigma, 0.0, 20.0
    price = {
        (mean, spread): terms(answer, torch.full_like(EPS, spread)).bound[0].item()
        for mean, answer in (("right", mean_right), ("wrong", mean_wrong))
        for spread in (narrow, wide)
    }
    assert min(price.values()) >= 0
    assert price["right", narrow] < price["right", wide]
    assert price["right", narrow] < price["wrong", narrow]


def test_the_bound_leaves_the_noise_estimate_alone():
    answer, share = EPS.clone().requires_grad_(), torch.zeros_like(EPS, requires_grad=True)
    terms(answer, share).bound.sum().backward()
    assert answer.grad is None or not answer.grad.any()
    assert share.grad.any()


def test_the_last_step_is_scored_as_256_grey_levels_whose_masses_add_up_to_one():
    levels = torch.arange(256) / 127.5 - 1
    from difflab.core.loss import _discretised_log_likelihood

    for deviation in (0.01, 0.3, 2.0):
        mass = _discretised_log_likelihood(
            levels, torch.full((256,), 0.2), torch.full((256,), math.log(deviation))
        ).exp()
        assert mass.sum().item() == pytest.approx(1.0, abs=1e-3)
    exact = torch.distributions.Normal(0.2, 0.3)
    bin_mass = exact.cdf(levels + 1 / 255) - exact.cdf(levels - 1 / 255)
    found = _discretised_log_likelihood(levels, torch.full((256,), 0.2), torch.full((256,), math.log(0.3))).exp()
    assert np.abs((found - bin_mass).numpy()[1:-1]).max() < 2e-4, "the tanh form of the normal distribution function"
