"""`difflab doctor`: what is installed, which weights are there, and a self-check on closed forms."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from difflab.zoo.registry import Row

_LIBRARIES = (
    "torch",
    "numpy",
    "scipy",
    "pillow",
    "av",
    "lmdb",
    "safetensors",
    "accelerate",
    "tensorboard",
    "diffusers",
    "transformers",
    "ray",
    "s3fs",
)


def doctor() -> None:
    """Say what is installed and which weights are there, and check the mathematics on closed forms."""
    from difflab.cli.options import pick_device
    from difflab.data.film_sets import FILM_SETS
    from difflab.data.sources import KNOWN, data_root
    from difflab.errors import see
    from difflab.study.record import machine
    from difflab.zoo.registry import home, list_models

    print("\n".join(f"{name:<10} {value}" for name, value in machine(pick_device(None)).items()))
    print("\nlibraries")
    for name in _LIBRARIES:
        print(f"  {name:<12} {_version(name)}")
    print(f"\nweights (in {home()}, or $DIFFLAB_HOME, and in the package)")
    _print_weights(list_models())
    print(f"\ndata sets (in {data_root()})")
    for name in (*KNOWN, *FILM_SETS):
        print(f"  {name:<22} {'here' if (data_root() / name).is_dir() else 'not here'}")
    print(f"\nwhat is not here, how to get it, and what works without: {see('how-to/missing')}")
    print("\nself-check")
    failed = 0
    for name, check in CHECKS.items():
        error, bound = check()
        failed += error > bound
        print(f"  {'ok  ' if error <= bound else 'BAD '} {name}: {error:.1e}, allowed {bound:.0e}")
    if failed:
        print(f"{failed} checks failed: numbers made on this machine cannot be trusted.")
        raise typer.Exit(1)


_NAMED = 6  # more than so many names are not told one by one


def _print_weights(rows: Sequence[Row]) -> None:
    """What is here of each kind, and what is not, in words short enough to be read."""
    for kind in dict.fromkeys(row.kind for row in rows):
        for present in (True, False):
            names = [row.name for row in rows if row.kind == kind and row.present is present]
            told = ", ".join(names) if present or len(names) <= _NAMED else f"{len(names)}, listed by `difflab models`"
            if names:
                print(f"  {kind:<12} {'here' if present else 'not here':<9} {told}")


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _ddim_reaches_the_flow() -> tuple[float, float]:
    """On Gaussian data the exact end of the flow is known; 1,000 first-order steps must come close."""
    import torch

    from difflab.core.exact import GaussianDenoiser
    from difflab.core.noise import GivenNoise
    from difflab.core.sampler import DDIM, final, trajectory
    from difflab.core.schedule import make_schedule, path

    model, points = GaussianDenoiser(0.7, 0.25), path(make_schedule("linear"), 1000)
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    end = final(trajectory(model, DDIM(), points, GivenNoise(x, [])))
    return float((end - model.flow(x, points[0], points[-1])).abs().max()), 2e-2


def _eta_one_is_ancestral() -> tuple[float, float]:
    """DDIM at eta 1 has the coefficients of DDPM's posterior."""
    from difflab.core.posterior import posterior_coefficients, posterior_variance
    from difflab.core.schedule import make_schedule

    schedule = make_schedule("linear")
    now, nxt = schedule.point(600), schedule.point(400)
    direction = math.sqrt(nxt.sigma**2 - posterior_variance(now, nxt))
    found = nxt.alpha - direction * now.alpha / now.sigma, direction / now.sigma
    return max(abs(a - b) for a, b in zip(found, posterior_coefficients(now, nxt), strict=True)), 1e-14


def _noise_ignores_the_batch() -> tuple[float, float]:
    """Sample 5 starts from the same noise alone and in a batch."""
    from difflab.core.noise import SeededNoise

    alone, together = SeededNoise(3, [5], (3, 8, 8)).draw(2), SeededNoise(3, range(8), (3, 8, 8)).draw(2)
    return float((alone[0] - together[5]).abs().max()), 0.0


def _frechet_of_known_gaussians() -> tuple[float, float]:
    """|m1 - m2|^2 + (s1 - s2)^2 in every dimension."""
    import numpy as np

    from difflab.score.metrics import frechet

    rng = np.random.default_rng(0)
    m1, m2, s1, s2 = rng.normal(size=(4, 64))
    exact = float(((m1 - m2) ** 2 + (abs(s1) - abs(s2)) ** 2).sum())
    return abs(frechet((m1, np.diag(s1**2)), (m2, np.diag(s2**2))) - exact) / exact, 1e-10


def _scenes_are_recognised() -> tuple[float, float]:
    """The truth checker accepts what the world draws."""
    import numpy as np

    from difflab.data.shapes import Shapes, recognise

    return 1.0 - float(recognise(Shapes().batch(np.arange(64))[0]).valid.mean()), 0.0


CHECKS: dict[str, Callable[[], tuple[float, float]]] = {
    "DDIM reaches the exact flow of Gaussian data": _ddim_reaches_the_flow,
    "DDIM with eta 1 is DDPM's posterior": _eta_one_is_ancestral,
    "noise does not depend on the batch": _noise_ignores_the_batch,
    "Frechet distance of known Gaussians": _frechet_of_known_gaussians,
    "the truth checker knows its own scenes": _scenes_are_recognised,
}
