"""The exact denoiser of latents against Bayes' rule written out, and where trainings use it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.distributions import Independent, Normal

from difflab.core.loss import hybrid_terms
from difflab.core.posterior import Posteriors
from difflab.core.prediction import add_noise
from difflab.core.schedule import make_schedule
from difflab.data import shapes as world
from difflab.errors import DifflabError
from difflab.train.config import DiffusionRecipe, read_recipe
from difflab.train.draws import Draws
from difflab.train.feed import Batch
from difflab.train.latents_denoiser import LatentsDenoiser
from difflab.train.objective import DiffusionObjective
from difflab.zoo.autoencoder import open_autoencoder
from difflab.zoo.codec import encode_moments

CPU = torch.device("cpu")
SCHEDULE = make_schedule("linear")


def table(n: int = 30, classes: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Latents, probabilities and classes of a world that was made up."""
    g = torch.Generator().manual_seed(0)
    probability = torch.rand(n, generator=g, dtype=torch.float64) + 0.1
    return (
        torch.randn(n, 2, 3, 3, generator=g),
        probability / probability.sum(),
        torch.randint(0, classes, (n,), generator=g),
    )


def by_bayes(x: torch.Tensor, t: int, rows: torch.Tensor) -> torch.Tensor:
    """E[x0 | x] of one noisy latent by densities in double precision, over some rows of the table."""
    latents, probability, _ = table()
    at = SCHEDULE.point(t)
    density = Independent(Normal(at.alpha * latents[rows].double(), at.sigma), 3).log_prob(x.double())
    weights = (density + probability[rows].log()).softmax(0)
    return torch.einsum("n,nchw->chw", weights, latents[rows].double()).float()


@pytest.mark.parametrize("t", [100, 500, 900])
@pytest.mark.parametrize("label", [0, 1, 2, 3, None])
def test_it_is_bayes_rule_over_the_scenes_of_the_class_that_is_told(t, label):
    _, _, labels = table()
    x = torch.randn(4, 2, 3, 3, generator=torch.Generator().manual_seed(t))
    told = None if label is None else torch.full((4,), label)
    found = LatentsDenoiser(*table())(x, SCHEDULE.point(t), told).x0
    rows = torch.arange(len(labels)) if label in (3, None) else torch.nonzero(labels == label)[:, 0]
    torch.testing.assert_close(found, torch.stack([by_bayes(one, t, rows) for one in x]), rtol=1e-4, atol=1e-4)


def test_each_sample_may_lie_at_its_own_place_and_be_told_its_own_class():
    x = torch.randn(4, 2, 3, 3, generator=torch.Generator().manual_seed(1))
    t, told, denoiser = torch.tensor([50, 300, 600, 999]), torch.tensor([2, 3, 0, 2]), LatentsDenoiser(*table())
    alone = [denoiser(x[i : i + 1], SCHEDULE.point(int(t[i])), told[i : i + 1]).eps for i in range(4)]
    torch.testing.assert_close(denoiser(x, SCHEDULE.at(t, 4), told).eps, torch.cat(alone), rtol=1e-4, atol=1e-5)


def test_noise_and_latent_agree():
    x, at = torch.randn(2, 2, 3, 3, generator=torch.Generator().manual_seed(2)), SCHEDULE.point(400)
    found = LatentsDenoiser(*table())(x, at)
    torch.testing.assert_close(at.alpha * found.x0 + at.sigma * found.eps, x)


def test_the_hybrid_loss_learns_the_exact_noise_and_the_variance_of_what_was_drawn():
    latents, probability, labels = table()
    g = torch.Generator().manual_seed(3)
    x0, eps, t = latents[:5], torch.randn(5, 2, 3, 3, generator=g), torch.tensor([0, 100, 300, 600, 900])
    output = torch.randn(5, 4, 3, 3, generator=g)
    denoiser = LatentsDenoiser(latents, probability, labels)
    posteriors = Posteriors.of(SCHEDULE)
    plain = hybrid_terms(lambda x, t: output, x0, t, eps, SCHEDULE, posteriors)
    exact = hybrid_terms(lambda x, t: output, x0, t, eps, SCHEDULE, posteriors, denoiser)
    at = SCHEDULE.at(t, 4)
    aim = denoiser(add_noise(x0, eps, at), at).eps
    torch.testing.assert_close(exact.error, (aim - output[:, :2]).square().flatten(1).mean(1))
    torch.testing.assert_close(exact.bound, plain.bound)


# --- in trainings


def recipe(**settings) -> DiffusionRecipe:
    network = {"input_size": 8, "patch_size": 4, "hidden_size": 8, "depth": 1, "num_heads": 1, "num_classes": 20}
    data = {"source": "shapes", "size": 32, "flip": False}
    fields = {"name": "a", "family": "dit", "autoencoder": "shapes-vae", "variance": "learned", "target": "exact"}
    return DiffusionRecipe(**{**fields, "network": network, "data": data, "steps": 1, "batch": 4, **settings})


def test_a_training_learns_the_mean_of_the_scenes_of_its_class(monkeypatch):
    """A world of 40 scenes, so that it need not encode them all: with an answer of zero the error is that of the exact
    noise, by this file's own reckoning."""
    scenes, _ = world.every_scene()
    few = scenes[np.arange(0, len(scenes), 1950)]
    monkeypatch.setattr(world, "every_scene", lambda: (few, np.full(len(few), 1 / len(few))))
    objective = DiffusionObjective(recipe())
    batch = Batch(world.draw(few[np.arange(4)]), few.labels[:4], np.arange(4))
    drawn = objective.draw(batch, Draws(0, 0, 4), CPU)
    x0, t, eps, labels = drawn[:4]
    autoencoder = open_autoencoder("shapes-vae", "cpu")
    means = encode_moments(autoencoder, world.draw(few), CPU).mean * autoencoder.scale
    torch.testing.assert_close(x0, means[:4])

    at = objective.schedule.at(t, 4)
    x = add_noise(x0, eps, at)
    z, errors = means.double(), []
    for i in range(4):
        rows = torch.from_numpy(np.flatnonzero((few.labels == int(labels[i])) | (int(labels[i]) == 20)))
        alpha, sigma = float(at.alpha[i]), float(at.sigma[i])
        weights = (-(x[i] - alpha * z[rows]).square().flatten(1).sum(1) / (2 * sigma**2)).softmax(0)
        mean = torch.einsum("n,nchw->chw", weights, z[rows])
        errors.append(((x[i] - alpha * mean) / sigma).square().mean())
    zero = hybrid_terms(
        lambda x, t: torch.zeros(4, 8, 8, 8), x0, t, eps, objective.schedule, Posteriors.of(objective.schedule)
    )
    network = objective.build()  # DiT begins with an answer of zero
    found = objective.loss(network, drawn).detach() - zero.bound.mean()
    assert float(found) == pytest.approx(float(torch.stack(errors).mean()), rel=1e-3)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("data.flip=true", r"a mirrored scene is of another class; set it to false"),
        ("network.num_classes=10", r"told 10 classes: the exact mean is known with none or 20; choose target: data"),
        ("error=l1", r"learned.*leave prediction, reduction, error and weighting out"),
    ],
)
def test_what_the_mean_is_not_known_of_is_refused(tmp_path, change, words):
    path = tmp_path / "a.yaml"
    path.write_text(recipe().model_dump_json())
    with pytest.raises(DifflabError, match=words):
        read_recipe(path, [change])
