"""Running a study of trainings: train what is missing, measure every snapshot, record."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from difflab import files
from difflab.data.shapes import Shapes, sample_scenes
from difflab.data.sources import SHAPES, open_data
from difflab.errors import DifflabError
from difflab.study.demands import check_features, check_reference, check_truth
from difflab.study.features import choose_features, open_extractor
from difflab.study.learning import Learning, LearningStudy, Point, Variant
from difflab.study.reference import FRESH_SEED, Reference, picture_batches
from difflab.study.result import Result
from difflab.study.run import run_study
from difflab.study.spec import Study, key_of
from difflab.study.store import Store, read_json
from difflab.train.config import DiffusionRecipe, apply_override, parse_recipe
from difflab.train.draws import Draws
from difflab.train.feed import Batch
from difflab.train.loop import CHECKPOINT, Progress
from difflab.train.objective import DiffusionObjective
from difflab.train.run import snapshot_file, train
from difflab.zoo.load import load

Watch = Callable[[str, Progress | None], None]

_BUDGET = ("name", "kind", "seed", "steps", "batch", "data")  # what variants have in common, so that they compare
_TRAINED_AT_ONCE = 1 << 18  # scenes of a training looked through at once
_CANDIDATES = 64  # fresh scenes looked at for one that no training has seen


def run_learning(
    study: LearningStudy, out: Path, *, batch: int = 64, device: str | None = None, watch: Watch | None = None
) -> Learning:
    """Run a study of trainings, or go on with one that was killed, and return its numbers.

    `watch` is told the training's name with every step, and again without one when it is measured. Raises DifflabError
    for whatever is wrong with the recipe of any variant, or missing for the measuring, before any of them is trained.
    """
    tell = watch or (lambda name, progress: None)
    recipes = {(variant, seed): recipe_of(study, variant, seed) for variant in study.variants for seed in study.seeds}
    for (variant, _), recipe in recipes.items():
        _check(study, variant, recipe)
    files.write_text(
        out / "study.yaml", yaml.safe_dump(study.model_dump(mode="json", exclude_none=True), sort_keys=False)
    )
    for recipe in recipes.values():
        folder = out / "trainings" / recipe.name
        if not _finished(study, recipe, folder):
            resume = (folder / CHECKPOINT).exists()
            train(recipe, folder, resume=resume, snapshots=study.snapshots, watch=lambda p, r=recipe: tell(r.name, p))  # type: ignore[misc]
    points, last = [], None
    for (variant, seed), recipe in recipes.items():
        tell(recipe.name, None)
        for step in study.snapshots:
            snapshot = snapshot_file(out / "trainings" / recipe.name, step)
            result = _sampled(study, snapshot, seed, out, batch, device)
            path = out / "points" / f"{recipe.name}-{step:07d}-{_key(study, recipe, result.rows[0].key)}.json"
            if not path.exists():
                if result.rows[0].error:
                    raise DifflabError(f"{snapshot}: its samples could not be scored: {result.rows[0].error}.")
                scores = result.rows[0].scores
                point = Point(
                    variant=variant, seed=seed, step=step, images=step * recipe.batch,
                    loss=held_out_loss(study, recipe, snapshot), scores=scores,
                )  # fmt: skip
                files.write_text(path, point.model_dump_json(indent=1) + "\n")
            points.append(Point.model_validate(read_json(path)))
            last = result
    assert last is not None
    found = Learning(
        study=study,
        metric_names=last.metric_names,
        variants=[variant_of(study, name) for name in study.variants],
        points=points,
        floors=last.floors,
        machine=last.machine,
    )
    found.save(out)
    return found


def _check(study: LearningStudy, variant: str, recipe: DiffusionRecipe) -> None:
    """Find what is missing before hours of training: the reference, the features, the truth, the held-out pictures."""
    check_reference(study, Reference(study.reference, study.split, recipe.data.size))
    check_features(study, open_extractor(study.features or choose_features(study.reference, recipe.data.size)))
    check_truth(study, f"the variant {variant}", recipe.data.size, recipe.network.classes)
    _held_out(study, recipe)


def _finished(study: LearningStudy, recipe: DiffusionRecipe, folder: Path) -> bool:
    """Whether a training has ended and left all snapshots. Raises DifflabError for one by another recipe."""
    card = folder / f"{recipe.name}.json"
    if not card.exists():
        return False
    if read_json(card)["training"]["recipe"] != recipe.model_dump(mode="json"):
        raise DifflabError(f"{folder}: a training by another recipe is here; choose another --out, or delete it.")
    if missing := [step for step in study.snapshots if not snapshot_file(folder, step).exists()]:
        raise DifflabError(
            f"{folder}: this training has ended without a snapshot of step {missing[0]}; delete it to train it again."
        )
    return True


def _key(study: LearningStudy, recipe: DiffusionRecipe, cell: str) -> str:
    """What decides a point: the cell of its samples, whose key holds the weights, what scores them, and the loss."""
    measured = study.model_dump(mode="json", include={"reference", "split", "metrics", "held_out"})
    return key_of({"recipe": recipe.model_dump(mode="json"), "cell": cell, **measured})


def recipe_of(study: LearningStudy, variant: str, seed: int) -> DiffusionRecipe:
    """The recipe of one training. Raises DifflabError naming the study and the wrong field.

    What a variant must not change is the budget: the data, and how much of them all are shown.
    """
    where = f"{study.name}, {variant}"
    if unequal := [key for key in study.variants[variant] if key.split(".")[0] in _BUDGET]:
        raise DifflabError(
            f"{where}: changes {unequal[0]}, but variants compare on equal budgets; set it in the recipe, for all."
        )
    fields: dict[str, Any] = {**study.recipe, "name": f"{variant.replace(' ', '-')}-seed{seed}", "seed": seed}
    fields["steps"] = study.snapshots[-1]
    fields = yaml.safe_load(yaml.safe_dump(fields))  # a copy of its own, also of what is nested
    for key, value in study.variants[variant].items():
        apply_override(fields, key, value)
    recipe = parse_recipe(fields, where)
    if not isinstance(recipe, DiffusionRecipe):
        raise DifflabError(f"{where}: the recipe is of kind {recipe.kind}, but diffusion models are compared here.")
    return recipe


@torch.no_grad()
def held_out_loss(study: LearningStudy, recipe: DiffusionRecipe, snapshot: Path) -> float:
    """The training loss of a snapshot's averaged weights on held-out data; timesteps, noise and hidden classes are the
    same for all variants, seeds and steps."""
    batch = _held_out(study, recipe)
    objective, model = DiffusionObjective(recipe), load(snapshot)
    drawn = objective.draw(batch, Draws(0, 0, len(batch.indices)), torch.device("cpu"))
    parts = zip(*(value.split(64) for value in drawn), strict=True)
    losses = [(float(objective.loss(model.network, part)), len(part[0])) for part in parts]
    return sum(loss * n for loss, n in losses) / sum(n for _, n in losses)


def _held_out(study: LearningStudy, recipe: DiffusionRecipe) -> Batch:
    if recipe.data.source == SHAPES:
        if recipe.data.flip:
            raise DifflabError(
                f"{study.name}: data.flip is true, but a mirrored scene is another scene, of another class; set it to "
                "false."
            )
        unseen = _unseen(recipe.data.seed, recipe.steps * recipe.batch, study.held_out)
        if len(unseen) < study.held_out:
            raise DifflabError(
                f"{study.name}: held_out is {study.held_out}, but only {len(unseen)} scenes were found that "
                f"{recipe.steps} steps of {recipe.batch} do not show; ask for fewer, or train shorter."
            )
        return Batch(*Shapes(recipe.data.size, int(unseen[-1]) + 1, FRESH_SEED).batch(unseen), unseen)
    indices = np.arange(study.held_out)
    dataset = open_data(recipe.data.source, split="test", size=recipe.data.size, crop=recipe.data.crop)
    if len(dataset) < study.held_out:
        raise DifflabError(
            f"{study.name}: held_out is {study.held_out}, but {dataset.description} are all there are; ask for fewer."
        )
    labels = np.array([-1 if (label := dataset[int(i)].label) is None else label for i in indices])
    pictures = np.concatenate([part for part, _ in picture_batches(dataset, order=indices)])
    return Batch(pictures, labels, indices)


@lru_cache(maxsize=4)
def _unseen(seed: int, trained: int, count: int) -> np.ndarray:
    """Up to `count` indices of fresh scenes, each another, that are not among the first `trained` scenes of `seed`.

    The world is finite: of fresh scenes three in four were seen after a hundred thousand, all of one shape among them.
    """
    ids = sample_scenes(FRESH_SEED, np.arange(_CANDIDATES * count)).ids
    seen = np.zeros(len(ids), bool)
    for begin in range(0, trained, _TRAINED_AT_ONCE):
        shown = np.arange(begin, min(begin + _TRAINED_AT_ONCE, trained))
        seen |= np.isin(ids, np.unique(sample_scenes(seed, shown).ids))
    first = np.zeros(len(ids), bool)
    first[np.unique(ids, return_index=True)[1]] = True
    return np.flatnonzero(first & ~seen)[:count]


def _sampled(study: LearningStudy, snapshot: Path, seed: int, out: Path, batch: int, device: str | None) -> Result:
    """The scores of a snapshot's samples; their noise goes with the training's seed, and is common to variants."""
    one = Study(
        name=f"{snapshot.parent.parent.name}-{snapshot.stem}", model=str(snapshot), reference=study.reference,
        split=study.split, features=study.features, base=study.draw, axes={"seed": [study.draw.seed + seed]},
        metrics=study.metrics, keep=8, chunk=256,
    )  # fmt: skip
    return run_study(one, out / "samples" / one.name, store=Store(out), batch=batch, device=device)


def variant_of(study: LearningStudy, name: str) -> Variant:
    """The size of a variant and the work of its forward pass on one sample."""
    recipe = recipe_of(study, name, study.seeds[0])
    network = DiffusionObjective(recipe).build().eval()
    shape = recipe.network.sample_shape
    told = () if recipe.network.classes is None else (torch.zeros(1, dtype=torch.int64),)
    # Only the plain form of attention is counted on a CPU.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, *shape), torch.zeros(1), *told)
    parameters = sum(p.numel() for p in network.parameters())
    return Variant(name=name, parameters=parameters, macs=counter.get_total_flops() // 2)
