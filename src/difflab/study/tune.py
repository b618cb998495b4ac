"""The search for sampler, grid and guidance with the least distance for a number of network calls.

Candidates are screened on few samples, the best of them measured on more, all from one seed; what is reported of the
winner was drawn from other seeds, on which nothing was chosen. Everything runs as studies do: cells are kept, a search
that was stopped goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy.special import stdtrit

from difflab import files
from difflab.core.names import SamplerName, Spacing
from difflab.data.sources import SHAPES
from difflab.errors import DifflabError
from difflab.places import Place, place
from difflab.study.bench import draw_of
from difflab.study.opening import open_benches
from difflab.study.result import Result, Row
from difflab.study.run import Watch, run_benches
from difflab.study.shelf import Shelf
from difflab.study.spec import Metric, Settings, Study, steps_within
from difflab.study.store import Store
from difflab.zoo.draw import plan
from difflab.zoo.model import Model

SAMPLERS: tuple[SamplerName, ...] = ("ddim", "ddpm", "heun", "dpmpp-2m", "dpmpp-2m-sde", "unipc")
GRIDS: tuple[Spacing, ...] = ("trailing", "logsnr", "karras", "time-uniform", "time-quadratic")
SCALES = (1.0, 1.25, 1.5, 2.0, 3.0)  # of guidance, where the model knows it
SCREEN, CHOOSE, REPORT = 0, 1, (101, 102, 103)  # seeds
_FINALISTS = 6
_SCREENED = 4  # times fewer samples
_FILE = "tuned.json"


@dataclass(frozen=True)
class Reported:
    """A setting's distance on the seeds kept for reporting: the mean over them and its 95 % interval by Student's t."""

    settings: Settings
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Tuned:
    """What a search found.

    metric: its name; finalists: settings and their distances on the seed that the winner was chosen by, best first;
    winner, usual: the winner's and, at as many calls, the official sampler's distance on other seeds.
    """

    metric: str
    finalists: list[tuple[Settings, float]]
    winner: Reported
    usual: Reported


def tune(
    model: str, budget: int, out: Place | str, *, reference: str | None = None, config: str | None = None,
    split: str | None = None, features: str | None = None, count: int = 1000, batch: int = 64,
    device: str | None = None, watch: Watch | None = None,
) -> Tuned:  # fmt: skip
    """Search the settings of `model` for the least distance to `reference` with at most `budget` calls a sample.

    Args:
        model, config, reference, split, features: as in a `Study`; without a reference that is what the model was
            trained on, where its card says so.
        budget: network calls a sample; a guided step makes two.
        out: folder of the search, in which it goes on.
        count: samples of a candidate, once it is among the last few.
        batch, device, watch: see `run_study`.

    Raises DifflabError as `run_study` does, and for a budget that no sampler can keep.
    """
    if budget < 2:
        raise DifflabError(f"the budget is {budget} network calls, but at least 2 are needed.")
    if count < 2:
        raise DifflabError(f"count is {count}, but a distance needs at least 2 samples.")
    shelf = Shelf.on(device)
    loaded = shelf.model(model, config)
    if reference is None:
        trained = loaded.card.trained_on
        if "source" not in trained:
            raise DifflabError(f"{model}: its card does not say what it was trained on; give the reference.")
        reference, split = trained["source"], split or (None if trained["source"] == SHAPES else trained.get("split"))
    metric: Metric = "fid" if loaded.frames is None else "fvd"
    told: dict[str, Any] = {
        "model": model, "config": config, "reference": reference, "split": split, "features": features,
        "metrics": [metric], "keep": 16, "chunk": max(1, min(250, count)),
    }  # fmt: skip
    folder = place(out)
    store = Store(folder)

    def run(name: str, settings: Sequence[Settings]) -> list[Result]:
        """Studies of single settings, in the order of these."""
        studies = [_study(f"{name}-{number}", one, told) for number, one in enumerate(settings)]
        benches = open_benches([(study, store) for study in studies], batch=batch, shelf=shelf)
        return run_benches(benches, [folder / study.name for study in studies], watch=watch)

    screened = _ranked(run("screen", candidates(loaded, budget, max(2, count // _SCREENED))), metric)
    last = [_with(s, seed=CHOOSE, count=count) for s, _ in screened[:_FINALISTS]]
    finalists = _ranked(run("choose", last), metric)
    chosen = [_with(finalists[0][0], count=count), _with(_usual(loaded, budget), count=count)]
    results = run("report", [_with(one, seed=seed) for one in chosen for seed in REPORT])
    rows = [result.rows[0] for result in results]
    if failed := [row.error for row in rows if row.error]:
        raise DifflabError(f"{model}: a setting that was to be reported failed: {failed[0]}")
    winner, usual = (_reported(rows[i : i + len(REPORT)], metric) for i in (0, len(REPORT)))
    found = Tuned(results[0].metric_names[metric], finalists, winner, usual)
    files.write_json(folder / _FILE, _record(found, budget, count))
    return found


def candidates(model: Model, budget: int, count: int) -> list[Settings]:
    """All settings within the budget that the model can be sampled with."""
    found = []
    network = model.card.network
    guides = network.hidden_share > 0.0 and (network.classes is not None or model.card.text is not None)
    for scale in SCALES if guides else SCALES[:1]:
        calls = budget if scale == 1.0 else budget // 2
        for sampler in SAMPLERS:
            for grid in dict.fromkeys((model.family.spacing, *GRIDS)):
                one = _setting(model, sampler, grid, calls, scale, count)
                if one is not None:
                    found.append(one)
    return found


def _setting(
    model: Model, sampler: SamplerName, grid: Spacing, calls: int, scale: float, count: int
) -> Settings | None:
    """A setting, or None for one that cannot be drawn."""
    if calls < 1:
        return None
    classes: Literal["random", "balanced"] = "balanced" if model.card.network.classes else "random"
    one = Settings(sampler=sampler, steps=steps_within(calls, sampler), spacing=grid, guidance=scale, classes=classes,
                   seed=SCREEN, count=count)  # fmt: skip
    try:
        plan(model, draw_of(one))
    except DifflabError:  # this sampler does not go along this grid
        return None
    return one


def _usual(model: Model, budget: int) -> Settings:
    """The official sampler on its own grid with as many calls, without guidance."""
    classes: Literal["random", "balanced"] = "balanced" if model.card.network.classes else "random"
    sampler = model.family.sampler
    return Settings(sampler=sampler, steps=steps_within(budget, sampler), spacing=model.family.spacing, classes=classes)


def _study(name: str, settings: Settings, told: dict[str, Any]) -> Study:
    return Study(name=name, base=settings, axes={"seed": [settings.seed]}, **told)


def _with(settings: Settings, **changes: Any) -> Settings:
    return Settings(**{**settings.model_dump(), **changes})


def _ranked(results: Sequence[Result], metric: Metric) -> list[tuple[Settings, float]]:
    """Settings and their scores, best first; failed ones are left out. Raises DifflabError where all failed."""
    every = [row for result in results for row in result.rows]
    rows = [row for row in every if not row.error]
    if not rows:
        raise DifflabError(f"none of {len(every)} settings could be drawn; the first said: {every[0].error}")
    return sorted(((row.settings, row.scores[metric].value) for row in rows), key=lambda pair: pair[1])


def _reported(rows: Sequence[Row], metric: Metric) -> Reported:
    values = np.array([row.scores[metric].value for row in rows])
    mean, half = values.mean(), stdtrit(len(values) - 1, 0.975) * values.std(ddof=1) / np.sqrt(len(values))
    return Reported(rows[0].settings, float(mean), float(mean - half), float(mean + half))


def _record(found: Tuned, budget: int, count: int) -> dict[str, Any]:
    def told(settings: Settings) -> dict[str, Any]:
        return settings.model_dump(mode="json", exclude_none=True, exclude={"seed", "count"})

    return {
        "budget": budget,
        "metric": found.metric,
        "samples": count,
        "chosen on seed": CHOOSE,
        "reported on seeds": list(REPORT),
        "winner": {"settings": told(found.winner.settings), "mean": found.winner.value,
                   "interval": [found.winner.low, found.winner.high]},
        "usual": {"settings": told(found.usual.settings), "mean": found.usual.value,
                  "interval": [found.usual.low, found.usual.high]},
        "finalists": [{"settings": told(s), "chosen by": value} for s, value in found.finalists],
    }  # fmt: skip
