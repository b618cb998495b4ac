"""Golden cases of guided-diffusion, run through the public functions."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tests.golden.closeness import close

import difflab
from difflab.core.noise import GivenNoise
from difflab.core.posterior import Posteriors
from difflab.core.schedule import Schedule, betas, make_schedule, respaced_timesteps
from difflab.zoo.draw import Draw
from difflab.zoo.model import Model
from difflab.zoo.sampling import walk

Arrays = dict[str, np.ndarray]
Fill = Callable[[dict[str, list[int]], int], Arrays]
Run = Callable[[], None]


def recognise(case: dict[str, Any], folder: Path, fill: Fill) -> Run | None:
    """What to run for the case in `folder`, or None when it is none of this family's."""
    if not (folder / "io.npz").exists():
        return None
    with np.load(folder / "io.npz", allow_pickle=False) as file:
        io = {name: file[name] for name in file.files}
    if "flags" in case:
        return lambda: (_sampling if "x_T" in io else _forward)(case, folder, io, fill)
    if any(name.endswith("_logvar_min") for name in io):
        return lambda: _schedules(case, io)
    return None


def _load(case: dict[str, Any], folder: Path, fill: Fill) -> Model:
    """The case's random weights as a plain file; told is only what shapes do not tell."""
    weights = fill(json.loads((folder / case["weights"]["shapes"]).read_text()), case["weights"]["recipe_seed"])
    silent = ("image_size", "num_heads", "num_head_channels", "use_new_attention_order")
    told = {name: case["flags"][name] for name in silent if name in case["flags"]}
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "weights.pt"
        torch.save({name: torch.from_numpy(value) for name, value in weights.items()}, path)
        return difflab.load(path, config=told, schedule=case["flags"]["noise_schedule"])


def _forward(case: dict[str, Any], folder: Path, io: Arrays, fill: Fill) -> None:
    model = _load(case, folder, fill)
    told = [torch.from_numpy(io[name]) for name in ("x", "t", "labels") if name in io]
    with torch.no_grad():
        close("out", model.network(*told), io["out"], case["tolerance"]["tol"])


def _sampling(case: dict[str, Any], folder: Path, io: Arrays, fill: Fill) -> None:
    model, tolerance = _load(case, folder, fill), case["tolerance"]["tol"]
    draw = Draw(
        "ddpm" if case["eta"] is None else "ddim", eta=case["eta"] or 0.0,
        respacing=case["flags"]["timestep_respacing"], classes=tuple(io["labels"].tolist()),
    )  # fmt: skip
    kept = respaced_timesteps(case["flags"]["diffusion_steps"], case["flags"]["timestep_respacing"])
    np.testing.assert_array_equal(kept[::-1], io["timesteps"])
    noise = GivenNoise(torch.from_numpy(io["x_T"]), [torch.from_numpy(z) for z in io["noise"]])
    steps = list(walk(model, draw, noise, torch.from_numpy(io["labels"])))
    close("xs", np.stack([step.x for step in steps]), io["xs"][1:], tolerance["xs"])
    close("x0_preds", np.stack([step.estimate.x0 for step in steps]), io["x0_preds"], tolerance["x0_preds"])


def _schedules(case: dict[str, Any], io: Arrays) -> None:
    """<schedule>_T<T>_betas and <schedule>_T<T>_<respacing>_<table>."""
    for name, expected in io.items():
        parts = re.fullmatch(r"([a-z]+)_T(\d+)_(?:([^_]+)_)?(timesteps|betas|abar|logvar_min|logvar_max)", name)
        assert parts, name
        rtol = 0 if name.endswith("timesteps") else case["tolerance"]["rtol"]
        np.testing.assert_allclose(_table(*parts.groups()), expected, rtol=rtol, err_msg=name)


def _table(schedule: str, timesteps: str, respacing: str | None, table: str) -> np.ndarray:
    total = int(timesteps)
    scale = 1000 / total  # guided-diffusion's linear betas have these ends whatever T
    ends = {"beta_start": 1e-4 * scale, "beta_end": 0.02 * scale} if schedule == "linear" else {}
    if respacing is None:
        return betas(schedule, total, **ends)
    kept = respaced_timesteps(total, respacing.replace("-", ","))
    if table == "timesteps":
        return kept
    whole = make_schedule(schedule, total, **ends)
    abar = whole.alpha_bar[kept]
    if table == "abar":
        return abar
    if table == "betas":
        return 1 - abar / np.append(1.0, abar[:-1])
    posteriors = Posteriors.of(Schedule(abar))
    return {"logvar_min": posteriors.log_small, "logvar_max": posteriors.log_large}[table]
