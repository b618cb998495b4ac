from __future__ import annotations

import numpy as np
import pytest
import torch

from difflab.core.loss import antithetic_timesteps
from difflab.core.prediction import add_noise, target
from difflab.data.shapes import COLOURS, Shapes, sample_scenes
from difflab.train.config import FeaturesRecipe
from difflab.train.feed import Batch
from difflab.train.objective import SCENE_HEADS, DiffusionObjective, FeaturesObjective, scene_targets
from difflab.train.shapes_denoiser import ShapesDenoiser

CPU = torch.device("cpu")


def batch(n: int = 4) -> Batch:
    pictures = np.random.default_rng(0).integers(0, 256, (n, 16, 16, 3), np.uint8)
    return Batch(pictures, np.zeros(n, np.int64), np.arange(n))


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_the_official_objective_is_the_sum_over_pixels_and_channels(recipe):
    mean, total = (
        DiffusionObjective(recipe(reduction=r)).loss(lambda x, t: 0.3 * x, batch(), generator(), CPU)
        for r in ("mean", "sum")
    )
    assert total.item() == pytest.approx(mean.item() * 16 * 16 * 3, rel=1e-5)


def test_a_recipe_decides_what_the_network_sees_and_how_it_is_judged(recipe):
    """The same draw of timesteps and noise, by hand: pixels to [-1, 1], antithetic timesteps, then noise."""
    seen = []
    loss = DiffusionObjective(recipe(prediction="v")).loss(
        lambda x, t: seen.append((x, t)) or 0 * x, batch(), generator(), CPU
    )
    source = generator()
    t = antithetic_timesteps(4, 1000, source)
    eps = torch.randn(4, 3, 16, 16, generator=source)
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
        DiffusionObjective(recipe(target=kind, prediction="v", **scenes)).loss(
            network, Batch(pictures, labels, np.arange(64)), generator(), CPU
        )
        for kind in ("data", "exact")
    )
    assert exact < 0.1 * drawn, "what is left is the rounding to grey levels"


def test_uniform_timesteps_are_not_paired(recipe):
    seen = []
    DiffusionObjective(recipe(timesteps="uniform")).loss(lambda x, t: seen.append(t) or x, batch(64), generator(), CPU)
    t = seen[0]
    assert t.min() >= 0
    assert t.max() < 1000
    assert not torch.equal(t[33:], 999 - t[:31])


def test_scene_targets_are_the_attributes_and_minus_one_for_an_absent_shape():
    indices = np.arange(200)
    scenes, targets = sample_scenes(0, indices), scene_targets(0, indices)
    one = scenes.count == 1
    assert targets["count"].tolist() == (scenes.count - 1).tolist()
    assert targets["main colour"].tolist() == scenes.colour[:, 0].tolist()
    assert targets["main place"].tolist() == (scenes.row[:, 0] * 3 + scenes.column[:, 0]).tolist()
    for name in ("other kind", "other colour", "other size", "other place"):
        assert (targets[name].numpy() == -1).tolist() == one.tolist(), name
    assert targets["other kind"][~torch.from_numpy(one)].tolist() == scenes.kind[~one, 1].tolist()


def test_the_heads_that_are_allowed_are_the_ones_that_have_targets():
    targets = scene_targets(0, np.arange(4000))
    assert targets.keys() == SCENE_HEADS.keys()
    assert {name: int(values.max()) + 1 for name, values in targets.items()} == SCENE_HEADS


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
    loss = objective.loss(lambda x: flat, some, generator(), CPU)
    assert loss.item() == pytest.approx(np.log(6) + np.log(4), rel=1e-6)


def test_other_data_is_classified_by_its_label():
    objective = FeaturesObjective(features_recipe(data={"source": "cifar10"}, heads={"class": 3}))
    sure = 100.0 * torch.eye(3)
    some = Batch(np.zeros((3, 32, 32, 3), np.uint8), np.array([2, 0, 1]), np.arange(3))
    assert objective.loss(lambda x: {"class": sure[[2, 0, 1]]}, some, generator(), CPU) < 1e-6
    assert objective.loss(lambda x: {"class": sure[[0, 0, 1]]}, some, generator(), CPU) > 30


@pytest.mark.parametrize(("noise", "clean"), [(0.0, True), (0.5, False)])
def test_noise_is_mixed_into_training_pictures_as_told(noise, clean):
    seen = []
    objective = FeaturesObjective(features_recipe(noise=noise))
    some = Batch(np.full((8, 32, 32, 3), 255, np.uint8), np.zeros(8, np.int64), np.arange(8))
    objective.loss(lambda x: seen.append(x) or {"main colour": torch.zeros(8, 6)}, some, generator(), CPU)
    assert torch.equal(seen[0], torch.ones(8, 3, 32, 32)) == clean
    assert seen[0].std(dim=(1, 2, 3)).max() <= noise * 1.05
