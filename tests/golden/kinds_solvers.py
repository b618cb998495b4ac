"""Golden cases of LuChengTHU/dpm-solver."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from difflab.core.exact import GaussianDenoiser
from difflab.core.schedule import make_schedule, solver_grid
from difflab.core.solvers import DPMSolver

Arrays = dict[str, np.ndarray]
Fill = Callable[[dict[str, list[int]], int], Arrays]
Run = Callable[[], None]

_SPACINGS = {"logSNR": "logsnr", "time_uniform": "time-uniform", "time_quadratic": "time-quadratic"}


def recognise(case: dict[str, Any], folder: Path, fill: Fill) -> Run | None:
    """What to run for the case in `folder`, or None when it is none of this family's."""
    if "predictor" not in case or not (folder / "io.npz").exists():
        return None
    with np.load(folder / "io.npz", allow_pickle=False) as file:
        io = {name: file[name] for name in file.files}
    return lambda: _runs(case, io)


def _runs(case: dict[str, Any], io: Arrays) -> None:
    names = [name.removesuffix("_xs") for name in io if name.endswith("_xs")]
    assert names
    for name in names:
        _walk(name, case, io)


def _walk(name: str, case: dict[str, Any], io: Arrays) -> None:
    """Its way ends at timestep 0, not at clean data; with fewer than ten steps the last ones have a lower degree."""
    parts = re.fullmatch(r"(pp|eps)_(\w+)_(\d+)_order(\d)", name)
    assert parts, name
    kind, spacing, steps, degree = parts[1], _SPACINGS[parts[2]], int(parts[3]), int(parts[4])
    schedule, tolerance = make_schedule("linear"), case["tolerance"]["tol"]
    grid = [*solver_grid(schedule, steps, spacing)[::-1], 0.0]
    np.testing.assert_allclose(grid[:-1], io[f"{name}_labels"], rtol=0, atol=tolerance)
    mean = torch.tensor(case["predictor"]["mu"], dtype=torch.float64).reshape(1, -1, 1, 1)
    denoise = GaussianDenoiser(mean, case["predictor"]["s"] ** 2)
    x, memory = torch.from_numpy(io["x_T"]), None
    for k, (now, nxt) in enumerate(pairwise(map(schedule.point, grid)), start=1):
        at_most = min(degree, steps + 1 - k) if steps < 10 else degree
        step = DPMSolver(at_most, "x0" if kind == "pp" else "eps").step(denoise, x, now, nxt, None, memory)
        x, memory = step.x, step.memory
        np.testing.assert_allclose(x, io[f"{name}_xs"][k], rtol=0, atol=tolerance)
