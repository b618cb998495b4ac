from __future__ import annotations

import pytest
import torch

from difflab.nets.autoencoder import KLAutoencoder, Posterior


def built(**changes) -> KLAutoencoder:
    torch.manual_seed(0)
    return KLAutoencoder(**{"image_size": 16, "widths": (8, 16), "patch": 2, "latent_channels": 3, **changes})


@pytest.mark.parametrize(
    ("widths", "patch", "factor"), [((8,), 1, 1), ((8,), 4, 4), ((8, 16), 2, 4), ((8, 16, 8), 1, 4)]
)
def test_latents_are_smaller_by_the_factor_and_pictures_come_back_in_size(widths, patch, factor):
    network, x = built(widths=widths, patch=patch), torch.randn(2, 3, 16, 16)
    posterior = network.encode(x)
    assert posterior.mean.shape == posterior.logvar.shape == (2, 3, 16 // factor, 16 // factor)
    assert network.decode(posterior.mean).shape == x.shape


def test_a_picture_does_not_look_at_its_neighbours():
    network, x = built(), torch.randn(4, 3, 16, 16)
    torch.testing.assert_close(network.encode(x).mean[2:3], network.encode(x[2:3]).mean, rtol=1e-5, atol=1e-6)


def test_a_sample_is_mean_and_deviation_times_noise():
    posterior = Posterior(torch.full((1, 1, 2, 2), 3.0), torch.full((1, 1, 2, 2), torch.log(torch.tensor(4.0))))
    assert torch.equal(posterior.sample(torch.zeros(1, 1, 2, 2)), posterior.mean)
    torch.testing.assert_close(posterior.sample(torch.ones(1, 1, 2, 2)), posterior.mean + 2.0)


def test_the_divergence_is_that_of_two_gaussians():
    mean, logvar = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    normal = torch.distributions.Normal
    exact = torch.distributions.kl_divergence(normal(mean, (0.5 * logvar).exp()), normal(0.0, 1.0))
    torch.testing.assert_close(Posterior(mean, logvar).kl(), exact.flatten(1).mean(1))
    assert Posterior(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2)).kl() == 0
