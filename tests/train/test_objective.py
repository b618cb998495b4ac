from __future__ import annotations

import numpy as np
import pytest
import torch

from difflab.core.loss import antithetic_timesteps, hybrid_terms
from difflab.core.prediction import add_noise, target
from difflab.data.shapes import COLOURS, Shapes
from difflab.errors import DifflabError
from difflab.train.checks import check_data
from difflab.train.config import AutoencoderRecipe, DiffusionRecipe, FeaturesRecipe
from difflab.train.draws import Draws, Of
from difflab.train.feed import Batch
from difflab.train.objective import (
    AutoencoderObjective,
    DiffusionObjective,
    FeaturesObjective,
)
from difflab.train.shapes_denoiser import ShapesDenoiser

CPU = torch.device("cpu")


def batch(n: int = 4) -> Batch:
    pictures = np.random.default_rng(0).integers(0, 256, (n, 16, 16, 3), np.uint8)
    return Batch(pictures, np.zeros(n, np.int64), np.arange(n))


def draws(some: Batch) -> Draws:
    return Draws(0, 0, len(some.indices))


def drawn_of(objective, some: Batch) -> tuple[torch.Tensor, ...]:
    return objective.draw(some, draws(some), CPU)


def lost(objective, network, some=None) -> torch.Tensor:
    return objective.loss(network, drawn_of(objective, some or batch()))


def test_the_official_objective_is_the_sum_over_pixels_and_channels(recipe):
    mean, total = (lost(DiffusionObjective(recipe(reduction=r)), lambda x, t: 0.3 * x) for r in ("mean", "sum"))
    assert total.item() == pytest.approx(mean.item() * 16 * 16 * 3, rel=1e-5)


def test_a_recipe_decides_what_the_network_sees_and_how_it_is_judged(recipe):
    """The same draw of timesteps and noise, by hand: pixels to [-1, 1], antithetic timesteps, then noise."""
    seen = []
    loss = lost(DiffusionObjective(recipe(prediction="v")), lambda x, t: seen.append((x, t)) or 0 * x)
    t = antithetic_timesteps(4, 1000, draws(batch()).generator(Of.TIMESTEPS))
    eps = draws(batch()).normal(Of.NOISE, (3, 16, 16))
    x0 = torch.from_numpy(batch().pictures).permute(0, 3, 1, 2) / 127.5 - 1
    at = recipe().schedule.build().at(t, 4)
    assert torch.equal(seen[0][1], t)
    torch.testing.assert_close(seen[0][0], add_noise(x0, eps, at))
    torch.testing.assert_close(loss, (at.alpha * eps - at.sigma * x0).square().mean())


def test_with_the_exact_target_the_best_denoiser_has_hardly_any_loss_left(recipe):
    best, places = ShapesDenoiser(), recipe().schedule.build()
    scenes = {"data": {"source": "shapes", "size": 32}, "network": {"image_size": 32}}
    pictures, labels = Shapes().batch(np.arange(64))

    def network(x, t):
        at = places.at(t, 4)
        found = best(x, at)
        return target(found.x0, found.eps, at, "v")

    drawn, exact = (
        lost(
            DiffusionObjective(recipe(target=kind, prediction="v", **scenes)),
            network,
            Batch(pictures, labels, np.arange(64)),
        )
        for kind in ("data", "exact")
    )
    assert exact < 0.1 * drawn, "what is left is the rounding to grey levels"


def test_uniform_timesteps_are_not_paired(recipe):
    seen = []
    lost(DiffusionObjective(recipe(timesteps="uniform")), lambda x, t: seen.append(t) or x, batch(64))
    t = seen[0]
    assert t.min() >= 0
    assert t.max() < 1000
    assert not torch.equal(t[33:], 999 - t[:31])


def features_recipe(**changes) -> FeaturesRecipe:
    fields = {
        "name": "f",
        "data": {"source": "shapes", "flip": False},
        "heads": {"main colour": len(COLOURS)},
        "steps": 1,
        "width": 8,
        "dim": 8,
    }
    return FeaturesRecipe.model_validate({**fields, **changes})


def test_the_features_loss_is_the_cross_entropy_summed_over_heads():
    objective = FeaturesObjective(features_recipe(heads={"main colour": 6, "other kind": 4}))
    flat = {"main colour": torch.zeros(8, 6), "other kind": torch.zeros(8, 4)}
    some = Batch(np.zeros((8, 32, 32, 3), np.uint8), np.zeros(8, np.int64), np.arange(8))
    loss = lost(objective, lambda x: flat, some)
    assert loss.item() == pytest.approx(np.log(6) + np.log(4), rel=1e-6)


def test_other_data_is_classified_by_its_label():
    objective = FeaturesObjective(features_recipe(data={"source": "cifar10"}, heads={"class": 3}))
    sure = 100.0 * torch.eye(3)
    some = Batch(np.zeros((3, 32, 32, 3), np.uint8), np.array([2, 0, 1]), np.arange(3))
    assert lost(objective, lambda x: {"class": sure[[2, 0, 1]]}, some) < 1e-6
    assert lost(objective, lambda x: {"class": sure[[0, 0, 1]]}, some) > 30


@pytest.mark.parametrize(("noise", "clean"), [(0.0, True), (0.5, False)])
def test_noise_is_mixed_into_training_pictures_as_told(noise, clean):
    seen = []
    objective = FeaturesObjective(features_recipe(noise=noise))
    some = Batch(np.full((8, 32, 32, 3), 255, np.uint8), np.zeros(8, np.int64), np.arange(8))
    lost(objective, lambda x: seen.append(x) or {"main colour": torch.zeros(8, 6)}, some)
    assert torch.equal(seen[0], torch.ones(8, 3, 32, 32)) == clean
    assert seen[0].std(dim=(1, 2, 3)).max() <= noise * 1.05


def latent_recipe(**changes) -> DiffusionRecipe:
    network = {"input_size": 8, "in_channels": 3, "hidden_size": 8, "depth": 1, "num_heads": 2, "num_classes": 5}
    fields = {
        "name": "t", "family": "dit", "network": {**network, **changes.pop("network", {})}, "variance": "learned",
        "data": {"source": "cifar10", "size": 8}, "steps": 1,
    }  # fmt: skip
    return DiffusionRecipe.model_validate({**fields, **changes})


def labelled(n: int = 400) -> Batch:
    return Batch(np.zeros((n, 8, 8, 3), np.uint8), np.arange(n) % 5, np.arange(n))


def test_a_learned_variance_is_trained_by_the_hybrid_loss():
    objective = DiffusionObjective(latent_recipe())
    drawn = drawn_of(objective, labelled(8))
    x0, t, eps, _ = drawn
    network = objective.build()
    terms = hybrid_terms(lambda x, t: network(x, t, drawn[3]), x0, t, eps, objective.schedule, objective.posteriors)
    torch.testing.assert_close(objective.loss(network, drawn), (terms.error + terms.bound).mean())


@pytest.mark.parametrize("share", [0.0, 0.25])
def test_that_share_of_the_classes_is_hidden_and_the_others_are_told(share):
    objective = DiffusionObjective(latent_recipe(network={"class_dropout_prob": share}))
    y = drawn_of(objective, labelled())[3]
    hidden = y == 5
    assert abs(hidden.float().mean().item() - share) < 4 * (share * (1 - share) / 400) ** 0.5 + 1e-9
    assert torch.equal(y[~hidden], torch.arange(400)[~hidden] % 5)


def test_with_one_class_there_is_nothing_to_tell():
    objective = DiffusionObjective(latent_recipe(network={"num_classes": 1, "class_dropout_prob": 0.0}))
    assert not drawn_of(objective, labelled())[3].any()


def test_more_classes_than_the_network_is_told_apart_by_are_refused():
    with pytest.raises(DifflabError, match=r"the data have 20 classes, but the network is told 5 apart.*to 20"):
        check_data(latent_recipe(), Shapes())
    check_data(latent_recipe(network={"num_classes": 20}), Shapes())
    check_data(latent_recipe(network={"num_classes": 1}), Shapes())


def test_parts_of_a_batch_have_the_loss_of_the_whole():
    objective = DiffusionObjective(latent_recipe())
    network, drawn = objective.build(), drawn_of(objective, labelled(8))
    halves = [objective.loss(network, part) for part in zip(*(value.chunk(2) for value in drawn), strict=True)]
    torch.testing.assert_close(torch.stack(halves).mean(), objective.loss(network, drawn))


def test_the_autoencoders_loss_is_the_squared_error_and_the_weighed_divergence():
    recipe = AutoencoderRecipe.model_validate(
        {"name": "a", "data": {"source": "shapes"}, "network": {"widths": [8, 8]}, "kl_weight": 0.5, "steps": 1}
    )
    objective = AutoencoderObjective(recipe)
    network = objective.build()
    some = Batch(np.full((4, 32, 32, 3), 200, np.uint8), np.zeros(4, np.int64), np.arange(4))
    x, noise = drawn_of(objective, some)
    assert noise.shape == (4, 4, 8, 8)
    reconstruction, posterior = network(x, noise)
    deviation = (0.5 * posterior.logvar).exp()
    normal = torch.distributions.Normal
    divergence = torch.distributions.kl_divergence(normal(posterior.mean, deviation), normal(0.0, 1.0)).mean()
    expected = (reconstruction - x).square().mean() + 0.5 * divergence
    torch.testing.assert_close(objective.loss(network, (x, noise)), expected)
