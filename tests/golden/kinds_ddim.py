"""Golden cases of the DDIM family, run through the public functions wherever they reach."""

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
from difflab.core.loss import diffusion_loss
from difflab.core.noise import GivenNoise, slerp
from difflab.core.schedule import betas, make_schedule, timestep_grid
from difflab.nets.layers import sincos_embedding
from difflab.train.config import OptimConfig
from difflab.train.ema import EMA
from difflab.train.loop import optimise
from difflab.train.optim import make_optimizer
from difflab.zoo.codec import decode
from difflab.zoo.draw import Draw
from difflab.zoo.model import Model
from difflab.zoo.sampling import walk

Arrays = dict[str, np.ndarray]
Fill = Callable[[dict[str, list[int]], int], Arrays]
Run = Callable[[], None]

_SAMPLERS = {"generalized": "ddim", "ddpm_noisy": "ddpm-noisy"}


def recognise(case: dict[str, Any], folder: Path, fill: Fill) -> Run | None:
    """What to run for the case in `folder`, or None when it is none of this family's."""
    if not (folder / "io.npz").exists():
        return None
    with np.load(folder / "io.npz", allow_pickle=False) as file:
        io = {name: file[name] for name in file.files}
    config = case.get("config", {})
    if isinstance(config, dict) and config.get("model", {}).get("type") == "simple":
        if "states" in case:
            return lambda: _container(case, folder, io)
        if "call" in case:
            return lambda: _sampling(case, folder, io, fill)
        if "optim" in case:
            return lambda: _training(case, folder, io, fill)
        if {"x", "t", "y"} <= io.keys():
            return lambda: _forward(case, folder, io, fill)
        return None
    if {"x", "uint8_ddim", "uint8_guided"} <= io.keys():
        return lambda: _export(io)
    if {"z1", "z2", "alpha", "z"} <= io.keys():
        return lambda: _slerp(case, io)
    if all(re.fullmatch(r"(ddim|guided)_\d+|t\w*", name) for name in io):
        return lambda: _embedding(case, io)
    if all(re.fullmatch(r"(uniform|quad)_T\d+_S\d+", name) for name in io):
        return lambda: _grids(io)
    if all(re.fullmatch(r"[a-z]+_T\d+_(betas|abar_float32)", name) for name in io):
        return lambda: _schedules(case, io)
    return None


def _tolerance(case: dict[str, Any], name: str) -> float:
    tolerance = case["tolerance"]["tol"]
    return tolerance[name] if isinstance(tolerance, dict) else tolerance


def _load(case: dict[str, Any], folder: Path, fill: Fill, **options: Any) -> Model:
    """The case's random weights, as a plain checkpoint file that `difflab.load` reads."""
    weights = fill(json.loads((folder / case["weights"]["shapes"]).read_text()), case["weights"]["recipe_seed"])
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "weights.ckpt"
        torch.save({name: torch.from_numpy(value) for name, value in weights.items()}, path)
        return difflab.load(path, **_configured(case), **options)


def _configured(case: dict[str, Any]) -> dict[str, Any]:
    data, model, process = (case["config"][part] for part in ("data", "model", "diffusion"))
    network = {**{k: v for k, v in model.items() if k != "type"}, "image_size": data["image_size"]}
    schedule = {
        "name": process["beta_schedule"],
        "timesteps": process["num_diffusion_timesteps"],
        "beta_start": process["beta_start"],
        "beta_end": process["beta_end"],
    }
    return {"config": network, "schedule": schedule}


def _run(model: Model, x: np.ndarray, t: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return model.network(torch.from_numpy(x), torch.from_numpy(t)).numpy()


def _forward(case: dict[str, Any], folder: Path, io: Arrays, fill: Fill) -> None:
    model = _load(case, folder, fill)
    seen: dict[str, torch.Tensor] = {}
    for name, module in _watched(model.network).items():
        module.register_forward_hook(lambda _m, _i, out, name=name: seen.__setitem__(name, out.clone()))
    seen["y"] = torch.from_numpy(_run(model, io["x"], io["t"]))
    for name in case["outputs"]:
        close(name, seen[name], io[name], _tolerance(case, name))


def _watched(network: torch.nn.Module) -> dict[str, torch.nn.Module]:
    """The modules whose outputs a case may hold, by its names for them."""
    modules = dict(network.named_modules())
    named = {"conv_in": "conv_in", "mid": "mid", "temb": "temb"}
    named |= {f"down{i}_downsample": f"down.{i}.downsample" for i in range(8)}
    return {name: modules[path] for name, path in named.items() if path in modules}


def _container(case: dict[str, Any], folder: Path, io: Arrays) -> None:
    settings = _configured(case)
    averaged = difflab.load(folder / case["file"], **settings)
    assert averaged.card.weights == "ema"
    close("y_ema", _run(averaged, io["x"], io["t"]), io["y_ema"], _tolerance(case, "y_ema"))
    official = {**case["config"], "model": {**case["config"]["model"], "ema": False}}
    raw = difflab.load(folder / case["file"], config=official)
    assert raw.card.weights == "raw"
    close("y_raw", _run(raw, io["x"], io["t"]), io["y_raw"], _tolerance(case, "y_raw"))


def _sampling(case: dict[str, Any], folder: Path, io: Arrays, fill: Fill) -> None:
    call = case["call"]
    as_v = "read as v" in case["predictor"]
    model = _load(case, folder, fill, prediction="v" if as_v else "eps")
    draw = Draw(_SAMPLERS[call["sample_type"]], call["timesteps"], call["eta"], call["skip_type"], official_grid=True)
    start, noise = torch.from_numpy(io["x_T"]), [torch.from_numpy(z) for z in io.get("noise", ())]
    states, beliefs = [start], []
    for step in walk(model, draw, GivenNoise(start, noise)):
        states.append(step.x)
        beliefs.append(step.estimate.x0)
    grid = timestep_grid(model.schedule.timesteps, draw.steps, call["skip_type"], official_grid=True)
    np.testing.assert_array_equal(grid[::-1], io["timesteps"].astype(int))
    close("xs", torch.stack(states), io["xs"], _tolerance(case, "xs"))
    close("x0_preds", torch.stack(beliefs), io["x0_preds"], _tolerance(case, "x0_preds"))
    answer = difflab.sample(
        model, x_T=start, noise=noise, sampler=draw.sampler, steps=draw.steps, eta=draw.eta, spacing=call["skip_type"],
        official_grid=True, output="raw",
    )  # fmt: skip
    close("x_0", answer, io["x_0"], _tolerance(case, "x_0"))


def _training(case: dict[str, Any], folder: Path, io: Arrays, fill: Fill) -> None:
    model, optim, tolerance = _load(case, folder, fill), case["optim"], case["tolerance"]
    network = model.network.requires_grad_(True)
    close("y_start", _run(model, io["x_probe"], io["t_probe"]), io["y_start"], tolerance["tol"])
    network.train()
    config = OptimConfig(
        name=optim["optimizer"].lower(), lr=optim["lr"], betas=(optim["beta1"], optim["beta2"]), eps=optim["eps"],
        weight_decay=optim["weight_decay"], grad_clip=optim["grad_clip"],
    )  # fmt: skip
    optimizer, ema = make_optimizer(network, config), EMA(network, case["ema_rate"])
    for k in range(len(io["loss"])):
        x0, t, eps = (torch.from_numpy(io[name][k]) for name in ("x0", "t", "noise"))
        loss = diffusion_loss(network, x0, t.long(), eps, model.schedule, "eps", "sum")
        _, norm = optimise(network, [loss], optimizer, config.grad_clip)
        ema.update(network)
        np.testing.assert_allclose(loss.item(), io["loss"][k], rtol=tolerance["loss_rtol"])
        np.testing.assert_allclose(norm.item(), io["grad_norm"][k], rtol=tolerance["grad_norm_rtol"])
    network.eval()
    close("y", _run(model, io["x_probe"], io["t_probe"]), io["y"], tolerance["tol"])
    network.load_state_dict(ema.state_dict())
    close("y_ema", _run(model, io["x_probe"], io["t_probe"]), io["y_ema"], tolerance["tol"])


def _export(io: Arrays) -> None:
    x = io["x"]
    channels_first = torch.from_numpy(x.reshape(1, 1, -1, 1))
    for rounding, name, exact in (
        ("nearest", "uint8_ddim", np.clip((x.astype(np.float64) + 1) / 2, 0, 1) * 255 + 0.5),
        ("floor", "uint8_guided", np.clip((x.astype(np.float64) + 1) * 127.5, 0, 255)),
    ):
        found = decode(channels_first, rounding).reshape(x.shape)  # type: ignore[arg-type]
        unsure = np.abs(exact - np.round(exact)) <= 1e-4
        assert (found == io[name])[~unsure].all(), f"{name}: differs where rounding is not in doubt"
        assert unsure.mean() < 0.5


def _slerp(case: dict[str, Any], io: Arrays) -> None:
    z1, z2 = torch.from_numpy(io["z1"]), torch.from_numpy(io["z2"])
    found = torch.stack([slerp(z1, z2, float(share)).reshape(io["z"].shape[1:]) for share in io["alpha"]])
    close("z", found, io["z"], case["tolerance"]["tol"])


def _embedding(case: dict[str, Any], io: Arrays) -> None:
    t = torch.from_numpy(next(value for name, value in io.items() if name.startswith("t")))
    for name, expected in io.items():
        if name.startswith("ddim_"):
            found = sincos_embedding(t, expected.shape[1]).numpy()
            assert np.abs(found - expected).max() <= case["tolerance"]["tol"], name


def _grids(io: Arrays) -> None:
    for name, expected in io.items():
        spacing, timesteps, steps = re.fullmatch(r"(\w+)_T(\d+)_S(\d+)", name).groups()  # type: ignore[union-attr]
        found = timestep_grid(int(timesteps), int(steps), spacing, official_grid=True)  # type: ignore[arg-type]
        np.testing.assert_array_equal(found, expected, err_msg=name)


def _schedules(case: dict[str, Any], io: Arrays) -> None:
    for name, expected in io.items():
        schedule, timesteps, what = re.fullmatch(r"([a-z]+)_T(\d+)_(\w+)", name).groups()  # type: ignore[union-attr]
        if what == "betas":
            found, tolerance = betas(schedule, int(timesteps), **case["args"]), case["tolerance"]["betas"]  # type: ignore[arg-type]
        else:
            table = make_schedule(schedule, int(timesteps), **case["args"]).alpha_bar  # type: ignore[arg-type]
            found, tolerance = np.concatenate([[1.0], table]), case["tolerance"]["abar"]
        np.testing.assert_allclose(found, expected, rtol=tolerance, atol=0, err_msg=name)
