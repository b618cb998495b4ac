"""Golden cases of the 3D U-Net, run through the public functions wherever they reach."""

from __future__ import annotations

import fnmatch
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import difflab
from difflab.core.guidance import Guidance, Guided
from difflab.core.loss import diffusion_loss
from difflab.core.noise import GivenNoise
from difflab.core.prediction import add_noise
from difflab.core.schedule import Point, make_schedule, timestep_grid
from difflab.nets.unet3d_attention import relative_buckets
from difflab.train.config import OptimConfig
from difflab.train.optim import make_optimizer
from difflab.zoo.clips import interpolate
from difflab.zoo.draw import Draw
from difflab.zoo.model import Model
from difflab.zoo.sampling import walk
from difflab.zoo.text import mean_pooled
from difflab.zoo.vdm_files import SCHEDULE, original, tables

Arrays = dict[str, np.ndarray]
Fill = Callable[[dict[str, list[int]], int], Arrays]
Run = Callable[[], None]


def recognise(case: dict[str, Any], folder: Path, fill: Fill) -> Run | None:
    """What to run for the case in `folder`, or None when it is none of this family's."""
    if case.get("family") != "vdm" or not (folder / "io.npz").exists():
        return None
    with np.load(folder / "io.npz", allow_pickle=False) as file:
        io = {name: file[name] for name in file.files}
    given = set(case["inputs"])
    if "container" in case:
        return lambda: _container(case, folder, io)
    if {"x1", "x2"} <= given:
        return lambda: _interpolation(case, folder, io, fill)
    if "x01" in given:
        return lambda: _training(case, folder, io, fill)
    if "x_T" in given:
        return lambda: _sampling(case, folder, io, fill)
    if "drop_mask" in given:
        return lambda: _conditions(case, folder, io, fill)
    if "mask" in given:
        return lambda: _focus(case, folder, io, fill)
    if {"x", "t"} == given:
        return lambda: _compare(case, io, {"y": _load(case, folder, fill).network(*_tensors(io, "x", "t"))})
    if {"token_ids", "hidden"} == given:
        return lambda: _pooling(case, io)
    if "alphas_cumprod" in io:
        return lambda: _compare(case, io, tables(make_schedule(SCHEDULE, case["config"]["timesteps"])))
    if any(name.startswith("bucket_") for name in io):
        return lambda: _buckets(case, io)
    return None


def _tensors(io: Arrays, *names: str) -> list[torch.Tensor]:
    return [torch.from_numpy(io[name]) for name in names]


def _compare(case: dict[str, Any], io: Arrays, found: dict[str, Any]) -> None:
    """|found - stored| <= atol + rtol |stored| for every output of the case."""
    for name in case["outputs"]:
        value = found[name]
        value = value.detach().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
        rule = next(rule for pattern, rule in case["tolerance"].items() if fnmatch.fnmatch(name, pattern))
        gap = np.abs(value.astype(np.float64) - io[name])
        assert value.shape == io[name].shape, name
        if isinstance(rule, str):  # relative to the largest magnitude in that array: 5e-3
            allowed = float(rule.split()[-1]) * np.abs(io[name]).max()
        else:
            allowed = rule["atol"] + rule["rtol"] * np.abs(io[name])
        assert (gap <= allowed).all(), f"{name}: off by up to {gap.max():.2e}"


def _load(case: dict[str, Any], folder: Path, fill: Fill) -> Model:
    """The case's random weights, as a trainer's file that `difflab.load` reads; its tables give T."""
    shapes = json.loads((folder / "shapes.json").read_text())
    weights = fill(
        {name: s for name, s in shapes.items() if name not in case["weights"]["fixed"]}, case["weights"]["seed"]
    )
    state = {f"denoise_fn.{name}": torch.from_numpy(value) for name, value in weights.items()}
    process = case.get("diffusion", {})
    state |= {
        n: torch.from_numpy(v) for n, v in tables(make_schedule(SCHEDULE, process.get("timesteps", 1000))).items()
    }
    told = {name: process[name] for name in ("image_size", "num_frames") if name in process}
    told |= {name: case["config"][name] for name in ("resnet_groups",) if name in case["config"]}
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "model-1.pt"
        torch.save({"step": 0, "model": state, "ema": state, "scaler": {}}, path)
        model = difflab.load(path, config=told)
    for name, value in case["config"].items():
        assert getattr(model.card.network, name) == (tuple(value) if isinstance(value, list) else value), name
    return model


def _container(case: dict[str, Any], folder: Path, io: Arrays) -> None:
    x, t = _tensors(io, "x", "t")
    told = {name: case["diffusion"][name] for name in ("image_size", "num_frames")}
    path, found = folder / case["container"]["file"], {}
    for name, weights in (("y_ema", "ema"), ("y_model", "raw")):
        model = difflab.load(path, config=told, weights=weights)
        assert model.schedule.timesteps == case["diffusion"]["timesteps"]
        assert model.card.training == {"step": case["container"]["step"]}
        found[name] = model.network(x, t)
    _compare(case, io, found)


def _sampling(case: dict[str, Any], folder: Path, io: Arrays, fill: Fill) -> None:
    model, process = _load(case, folder, fill), case["diffusion"]
    steps = process.get("sampling_steps", process["timesteps"])
    percentile = process["dynamic_thres_percentile"] if process.get("use_dynamic_thres") else None
    scale = 2.0 if "cond" in io else 1.0
    conditions = torch.from_numpy(io["cond"]) if "cond" in io else None
    if "kept_timesteps" in case:
        np.testing.assert_array_equal(timestep_grid(process["timesteps"], steps, "trailing"), case["kept_timesteps"])
    draw = Draw("ddpm", steps, guidance=Guidance(scale), percentile=percentile)
    start, noise = torch.from_numpy(io["x_T"]), list(torch.from_numpy(io["noise"]))
    states = [step.x for step in walk(model, draw, GivenNoise(start, noise), conditions)]
    kept = (
        json.loads(case["x_after"].split("numbers ")[-1].split("number ")[-1].split("]")[0] + "]")
        if "x_after" in case
        else []
    )
    answer = difflab.sample(
        model, x_T=start, noise=noise, steps=steps, guidance=scale, conditions=conditions, percentile=percentile,
        output="raw",
    )  # fmt: skip
    found = {"y": (answer + 1) / 2, "x_after": torch.stack([states[i] for i in kept])}
    assert torch.equal(answer, states[-1])
    if "betas" in io:
        kept_bar = model.schedule.alpha_bar[case["kept_timesteps"]]
        np.testing.assert_allclose(1 - kept_bar / np.concatenate([[1.0], kept_bar[:-1]]), io["betas"], rtol=1e-6)
    _compare(case, io, found)


def _interpolation(case: dict[str, Any], folder: Path, io: Arrays, fill: Fill) -> None:
    model, noise = _load(case, folder, fill), torch.from_numpy(io["noise"])
    t, share = 5, 0.3
    assert case["call"].endswith(f"t={t}, lam={share})")
    x1, x2 = _tensors(io, "x1", "x2")
    steps = GivenNoise(x1, list(noise[2:]))
    _compare(case, io, {"y": interpolate(model, x1, x2, (noise[0], noise[1]), t, share, steps)})


def _conditions(case: dict[str, Any], folder: Path, io: Arrays, fill: Fill) -> None:
    network = _load(case, folder, fill).network
    x, t, cond = _tensors(io, "x", "t", "cond")
    none = torch.full_like(cond, torch.nan)
    dropped = torch.where(torch.from_numpy(io["drop_mask"]).bool()[:, None], none, cond)
    found = {"y_null0": network(x, t, cond), "y_null1": network(x, t, none), "y_mixed": network(x, t, dropped)}
    for scale in (1, 2):
        parts = [  # while sampling all of a batch are at one timestep
            Guided(network, cond[i : i + 1], none[i : i + 1], Guidance(scale), 1000)(
                x[i : i + 1], Point(float(t[i]), 0.5, 0.5)
            )
            for i in range(len(x))
        ]
        found[f"y_scale_{scale}"] = torch.cat(parts)
    _compare(case, io, found)


def _focus(case: dict[str, Any], folder: Path, io: Arrays, fill: Fill) -> None:
    network = _load(case, folder, fill).network
    x, t, mask = _tensors(io, "x", "t", "mask")
    masks = {"y_off": torch.zeros(len(x), dtype=torch.bool), "y_all": torch.ones(len(x), dtype=torch.bool)}
    masks["y_mixed"] = mask.bool()
    _compare(case, io, {name: network(x, t, alone=alone) for name, alone in masks.items()})


def _training(case: dict[str, Any], folder: Path, io: Arrays, fill: Fill) -> None:
    model = _load(case, folder, fill)
    network = model.network.requires_grad_(True)
    x0, t, noise = _tensors(io, "x01", "t", "noise")
    x0 = 2 * x0 - 1
    noisy = add_noise(x0, noise, model.schedule.at(t, x0.ndim))
    found: dict[str, Any] = {"x_noisy": noisy, "model_out": network(noisy, t)}
    optimizer = make_optimizer(network, OptimConfig(name="sgd", lr=1e-30, grad_clip=None))
    for kind in ("l1", "l2"):
        optimizer.zero_grad()
        loss = diffusion_loss(network, x0, t, noise, model.schedule, "eps", kind=kind)
        loss.backward()
        gradients = {original(name): p.grad for name, p in network.named_parameters()}
        found[f"loss_{kind}"] = loss
        found[f"gradnorm_{kind}"] = torch.stack([g.norm() for g in gradients.values() if g is not None]).norm()
        found |= {f"grad_{kind}/{name}": _as_stored(g, io.get(f"grad_{kind}/{name}")) for name, g in gradients.items()}
    _compare(case, io, found)


def _as_stored(gradient: torch.Tensor | None, stored: np.ndarray | None) -> Any:
    """In the shape of the reference's weight, which has a frame more."""
    return gradient if stored is None or gradient is None else gradient.reshape(stored.shape)


def _pooling(case: dict[str, Any], io: Arrays) -> None:
    ids, hidden = _tensors(io, "token_ids", "hidden")
    _compare(case, io, {"mean": mean_pooled(hidden, ids != case["config"]["pad_id"]), "cls": hidden[:, 0]})


def _buckets(case: dict[str, Any], io: Arrays) -> None:
    for config in case["config"]:
        buckets, furthest = config["num_buckets"], config["max_distance"]
        found = relative_buckets(config["n"], buckets, furthest).numpy()
        np.testing.assert_array_equal(found, io[f"bucket_{buckets}_{furthest}"])
