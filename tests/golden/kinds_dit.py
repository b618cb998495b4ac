"""Golden cases of the DiT family, run through the public functions wherever they reach."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import difflab
from difflab.core.guidance import Guidance, Guided
from difflab.core.loss import Terms, hybrid_terms
from difflab.core.noise import GivenNoise
from difflab.core.posterior import Posteriors, beta, posterior_coefficients, posterior_variance
from difflab.core.schedule import Point, Schedule, make_schedule, path_of, respaced_timesteps
from difflab.data.dataset import Transform
from difflab.errors import DifflabError
from difflab.nets.dit import position_table
from difflab.nets.layers import cossin_embedding
from difflab.train.config import OptimConfig
from difflab.train.ema import EMA
from difflab.train.loop import optimise
from difflab.train.optim import make_optimizer
from difflab.zoo.autoencoder import open_autoencoder
from difflab.zoo.codec import LatentCodec, decode, encode
from difflab.zoo.dit_files import SD_VAE
from difflab.zoo.draw import Draw
from difflab.zoo.families import FAMILIES
from difflab.zoo.model import Model
from difflab.zoo.sampling import walk

Arrays = dict[str, np.ndarray]
Fill = Callable[[dict[str, list[int]], int], Arrays]
Run = Callable[[], None]


def recognise(case: dict[str, Any], folder: Path, fill: Fill) -> Run | None:
    """What to run for the case in `folder`, or None when it is none of this family's."""
    config = case.get("config")
    if not (folder / "io.npz").exists() or not isinstance(config, dict) or "family" in case:
        return None
    with np.load(folder / "io.npz", allow_pickle=False) as file:
        io = {name: file[name] for name in file.files}
    if {"hidden_size", "input_size"} <= config.keys():
        return _of_a_network(case, folder, io, fill)
    if "crops" in config:
        return lambda: _preprocessing(case, io)
    if {"moments", "decoded"} <= io.keys():
        return lambda: _autoencoder(case, folder, io)
    if any(name.startswith("pos_") for name in io):
        return lambda: _embeddings(case, io)
    if any(name.startswith("steps_T") for name in io):
        return lambda: _schedules(case, io)
    return None


def _of_a_network(case: dict[str, Any], folder: Path, io: Arrays, fill: Fill) -> Run | None:
    if "vae_config" in case:
        return lambda: _pipeline(case, folder, io)
    if "diffusers_config" in case:
        return lambda: _diffusers(case, folder, io)
    if "file" in case:
        return lambda: _container(case, folder, io)
    if "sampler" in case:
        return lambda: _sampling(case, folder, io, fill)
    if "drop_uniform" in io:
        return lambda: _training(case, folder, io, fill)
    if {"vb", "mse"} <= io.keys():
        return lambda: _losses(case, folder, io, fill)
    if "scales" in case:
        return lambda: _guidance(case, folder, io, fill)
    return (lambda: _forward(case, folder, io, fill)) if {"x", "t", "y", "out"} <= io.keys() else None


def _close(name: str, found: Any, expected: np.ndarray, tolerance: float) -> None:
    """max |found - expected| <= tolerance * max |expected|"""
    found = found.detach().numpy() if isinstance(found, torch.Tensor) else np.asarray(found)
    assert found.shape == expected.shape, f"{name}: shape {found.shape}, expected {expected.shape}"
    gap = np.abs(found.astype(np.float64) - expected).max() / np.abs(expected).max()
    assert gap <= tolerance, f"{name}: off by {gap:.2e} of its largest value, allowed {tolerance:.0e}"


def _tensors(io: Arrays, *names: str) -> list[torch.Tensor]:
    return [torch.from_numpy(io[name]) for name in names]


def _load(case: dict[str, Any], folder: Path, fill: Fill) -> Model:
    """The case's random weights, as a released state dict that `difflab.load` reads."""
    config = case["config"]
    shapes = json.loads((folder / "shapes.json").read_text())
    weights = fill(
        {name: shape for name, shape in shapes.items() if name not in case["fixed_keys"]}, case["weights_seed"]
    )
    table = position_table(config["hidden_size"], config["input_size"] // config["patch_size"])
    state = {name: torch.from_numpy(value) for name, value in weights.items()}
    state["pos_embed"] = torch.from_numpy(table).float()[None]
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "weights.pt"
        torch.save(state, path)
        return difflab.load(path, config=config)


def _forward(case: dict[str, Any], folder: Path, io: Arrays, fill: Fill) -> None:
    network, tolerance = _load(case, folder, fill).network, case["tolerance"]["rel_max"]
    seen: dict[str, torch.Tensor] = {"pos_embed": network.pos_embed}
    watched = {"t_emb": network.t_embedder, "y_emb": network.y_embedder, "patch_tokens": network.x_embedder}
    watched |= {"final_tokens": network.final_layer}
    watched |= {f"after_block_{i}": block for i, block in enumerate(network.blocks)}
    for name, module in watched.items():
        module.register_forward_hook(lambda _m, _i, out, name=name: seen.__setitem__(name, out.clone()))
    x, t, y = _tensors(io, "x", "t", "y")
    seen["out"] = network(x, t, y)
    seen["tokens_in"] = seen["patch_tokens"] + seen["pos_embed"]
    seen["t_freq"] = cossin_embedding(t, 256, 128)
    if "t_frac" in io:
        fraction = torch.from_numpy(io["t_frac"])
        kept = dict(seen)
        seen |= {"out_t_frac": network(x[: len(fraction)], fraction, y[: len(fraction)])}
        seen = {**seen, **kept, "t_frac_freq": cossin_embedding(fraction, 256, 128)}
    compared = io.keys() - {"x", "t", "y", "t_frac"}
    assert compared <= seen.keys(), compared - seen.keys()
    for name in compared:
        _close(name, seen[name], io[name], tolerance)


def _guidance(case: dict[str, Any], folder: Path, io: Arrays, fill: Fill) -> None:
    """The first half of the official double batch; of its second half only the null outputs are compared."""
    model, n = _load(case, folder, fill), len(io["x"]) // 2
    channels, tolerance = case["config"]["in_channels"], case["tolerance"]["rel_max"]
    x, t, y = _tensors(io, "x", "t", "y")
    assert (y[n:] == model.card.network.null_class).all()
    assert len(set(t[:n].tolist())) >= 1
    for scale in case["scales"]:
        for name, guided in (("three", 3), ("all", None)):
            expected = io[f"out_{name}_{scale}"][:n]
            for i in range(n):  # while sampling all of a batch are at one place; here they are not
                wrapped = Guided(
                    model.network, y[i : i + 1], y[n + i : n + i + 1], Guidance(scale, guided), 1000, channels
                )
                at = Point(float(t[i]), 0.5, 0.5)
                _close(f"{name} at {scale}", wrapped(x[i : i + 1], at), expected[i : i + 1], 3 * tolerance)


def _sampling(case: dict[str, Any], folder: Path, io: Arrays, fill: Fill) -> None:
    model, process, guided = _load(case, folder, fill), case["diffusion"], case["cfg_scale"] is not None
    if not process["learn_sigma"]:
        card = model.card.model_copy(update={"variance": "small" if process["sigma_small"] else "large"})
        model = Model(model.network, card)
    n = len(io["z"])
    draw = Draw(
        sampler=case["sampler"], eta=case["eta"] or 0.0, clip=case["clip_denoised"],
        respacing=process["timestep_respacing"],
        classes=tuple(int(c) for c in io["y"]), guidance=Guidance(case["cfg_scale"] or 1.0, 3 if guided else None),
    )  # fmt: skip
    kept = respaced_timesteps(process["diffusion_steps"], process["timestep_respacing"])
    np.testing.assert_array_equal(kept, io["timestep_map"])
    start, noise = torch.from_numpy(io["z"]), [torch.from_numpy(z[:n]) for z in io["noise"]]
    steps = list(walk(model, draw, GivenNoise(start, noise), torch.from_numpy(io["y"])))
    for k, step in enumerate(steps):
        _close(f"step {k}", step.x, io["steps"][k][:n], case["tolerance"]["rel_max"])
        _close(f"x0 of step {k}", step.estimate.x0, io["pred_xstart"][k][:n], case["tolerance"]["rel_max_pred_xstart"])
    answer = difflab.sample(
        model, x_T=start, noise=noise, sampler=draw.sampler, eta=draw.eta, clip=draw.clip, respacing=draw.respacing,
        classes=draw.classes, guidance=draw.guidance.scale, guidance_channels=draw.guidance.channels, output="raw",
    )  # fmt: skip
    _close("sample", answer, io["sample"], case["tolerance"]["rel_max"])


def _terms(network: Any, io: Arrays, t: np.ndarray, schedule: Schedule, told: np.ndarray | None = None) -> Terms:
    x0, noise, y = _tensors(io, "x0", "noise", "y")
    asked = torch.arange(schedule.timesteps) if told is None else torch.from_numpy(told)
    return hybrid_terms(
        lambda x, t: network(x, asked[t], y), x0, torch.from_numpy(t), noise, schedule, Posteriors.of(schedule)
    )


def _losses(case: dict[str, Any], folder: Path, io: Arrays, fill: Fill) -> None:
    network, tolerance = _load(case, folder, fill).network.requires_grad_(True), case["tolerance"]
    schedule = make_schedule("linear")
    terms = _terms(network, io, io["t"], schedule)
    found = {"mse": terms.error, "vb": terms.bound, "loss": terms.error + terms.bound}
    for name, value in found.items():
        _close(name, value, io[name], tolerance["rel_max"])
    for prefix, value in (("grad", found["loss"]), ("gradvb", found["vb"])):
        network.zero_grad()
        value.mean().backward(retain_graph=True)
        for name, parameter in network.named_parameters():
            if f"{prefix}.{name}" in io:
                gradient = parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
                _close(f"{prefix}.{name}", gradient, io[f"{prefix}.{name}"], tolerance["rel_max_grad"])
    pure = _terms(network, io, io["kl.t"], schedule)
    _close("kl.loss", pure.bound * schedule.timesteps, io["kl.loss"], tolerance["rel_max"])
    half = make_schedule("linear", 500, 2e-4, 0.04)  # both ends times 1000 / T
    rescaled = _terms(network, io, io["rescaled.t"], half)
    _close("rescaled.vb", rescaled.bound * half.timesteps / 1000, io["rescaled.vb"], tolerance["rel_max"])
    _close("rescaled.mse", rescaled.error, io["rescaled.mse"], tolerance["rel_max"])
    kept = respaced_timesteps(1000, "100")
    respaced = _terms(network, io, io["respaced100.t"], Schedule(schedule.alpha_bar[kept]), kept)
    _close("respaced100.vb", respaced.bound, io["respaced100.vb"], tolerance["rel_max"])
    _close("respaced100.mse", respaced.error, io["respaced100.mse"], tolerance["rel_max"])


def _training(case: dict[str, Any], folder: Path, io: Arrays, fill: Fill) -> None:
    model, tolerance = _load(case, folder, fill), case["tolerance"]
    network = model.network.requires_grad_(True).train()
    config = OptimConfig(name="adamw", lr=1e-4, weight_decay=0.0, grad_clip=None)
    optimizer, ema = make_optimizer(network, config), EMA(network, 0.9999)
    posteriors = Posteriors.of(model.schedule)
    for s in range(len(io["loss"])):
        x0, noise, t, y = (torch.from_numpy(io[name][s]) for name in ("x0", "noise", "t", "y"))
        y = torch.where(torch.from_numpy(io["drop_uniform"][s]) < 0.1, model.card.network.null_class, y)
        terms = hybrid_terms(lambda x, t, y=y: network(x, t, y), x0, t, noise, model.schedule, posteriors)
        loss, norm = optimise(network, [(terms.error + terms.bound).mean()], optimizer, config.grad_clip)
        ema.update(network)
        for name, value in (("loss", loss), ("mse", terms.error.mean()), ("vb", terms.bound.mean())):
            np.testing.assert_allclose(value.item(), io[name][s], rtol=tolerance["loss_rel"], err_msg=name)
        np.testing.assert_allclose(norm.item(), io["grad_norm"][s], rtol=tolerance["grad_norm_rel"])
    live, averaged = dict(network.named_parameters()), ema.state_dict()
    for name in (name.removeprefix("param.") for name in io if name.startswith("param.")):
        gap = np.abs(live[name].detach().numpy() - io[f"param.{name}"])
        assert (gap <= 2e-5).mean() >= 0.98, name
        assert gap.max() <= 1.1e-3, name
        assert np.abs(averaged[name].numpy() - io[f"ema.{name}"]).max() <= tolerance["ema_abs"], name


def _container(case: dict[str, Any], folder: Path, io: Arrays) -> None:
    x, t, y = _tensors(io, "x", "t", "y")
    for weights, name in (("ema", "ema_out"), ("raw", "model_out")):
        model = difflab.load(folder / case["file"], config={"num_heads": case["config"]["num_heads"]}, weights=weights)
        assert model.card.weights == weights
        assert model.card.network.model_dump(include=case["config"].keys()) == case["config"]
        _close(name, model.network(x, t, y), io[name], case["tolerance"]["rel_max"])


def _diffusers(case: dict[str, Any], folder: Path, io: Arrays) -> None:
    x, t, y = _tensors(io, "x", "t", "y")
    for numerics in ("official", "diffusers"):
        model = difflab.load(folder, config={"numerics": numerics})
        _close(numerics, model.network(x, t, y), io[f"out_{numerics}"], case["tolerance"]["rel_max"])


def _pipeline(case: dict[str, Any], folder: Path, io: Arrays) -> None:
    pytest.importorskip("diffusers")
    model = difflab.load(folder / "pipeline", config={"numerics": "diffusers"})
    assert model.card.network.model_dump(include=case["config"].keys()) == case["config"]
    start, labels = torch.from_numpy(io["start"]), tuple(int(c) for c in io["labels"])
    for scale in case["scales"]:
        how = {"sampler": "ddim", "steps": case["steps"], "spacing": "leading", "classes": labels}
        how |= {"guidance": scale, "guidance_channels": 4}  # diffusers guides all
        latent = difflab.sample(model, x_T=start, output="raw", **how)
        _close(f"latent at {scale}", latent, io[f"latent_{scale}"], case["tolerance"]["rel_max"])
        codec = model.codec
        assert isinstance(codec, LatentCodec)
        image = (codec.to_float(latent) / 2 + 0.5).clamp(0, 1).movedim(1, -1)
        assert np.abs(image.numpy() - io[f"image_{scale}"]).max() <= case["tolerance"]["image_abs"]
        pixels = difflab.sample(model, x_T=start, **how)
        assert np.abs(pixels - 255.0 * io[f"image_{scale}"]).max() <= 0.5 + 255 * case["tolerance"]["image_abs"]


def _autoencoder(case: dict[str, Any], folder: Path, io: Arrays) -> None:
    pytest.importorskip("diffusers")
    tolerance = case["tolerance"]
    for name in ("vae", "vae_legacy_keys"):
        autoencoder = open_autoencoder(str(folder / name))
        assert (autoencoder.factor, autoencoder.scale) == (SD_VAE["factor"], SD_VAE["scale"])
        image, noise, z = _tensors(io, "image", "noise", "z")
        posterior = autoencoder.encode(image)
        latent = posterior.sample(noise) * autoencoder.scale
        found = {
            "mean": posterior.mean, "logvar": posterior.logvar, "std": (0.5 * posterior.logvar).exp(), "latent": latent,
            "decoded": autoencoder.decode(z),
        }  # fmt: skip
        for key, value in found.items():
            _close(key, value, io[key], tolerance["rel_max"])
        codec = LatentCodec(autoencoder, autoencoder.scale, "nearest")
        _close("decoded_latent", codec.to_float(latent), io["decoded_latent"], tolerance["rel_max_roundtrip"])
        _close(
            "reconstruction", autoencoder.decode(posterior.mean), io["reconstruction"], tolerance["rel_max_roundtrip"]
        )


def _embeddings(case: dict[str, Any], io: Arrays) -> None:
    t = torch.from_numpy(io["t"])
    for name, expected in io.items():
        if match := re.fullmatch(r"pos_(\d+)_(\d+)(_rows)?", name):
            table = position_table(int(match[1]), int(match[2]))
            found = table[io["xl_rows"]] if match[3] else table
            assert np.abs(found - expected).max() <= case["tolerance"]["pos_abs"], name
        elif name.startswith("t_freq"):
            dim = expected.shape[1]
            found = cossin_embedding(t, dim, dim // 2).numpy()
            assert np.abs(found - expected).max() <= case["tolerance"]["t_freq_abs"], name


def _schedules(case: dict[str, Any], io: Arrays) -> None:
    for name, expected in io.items():
        if match := re.fullmatch(r"steps_T(\d+)_(.+)", name):
            np.testing.assert_array_equal(respaced_timesteps(int(match[1]), match[2]), expected, err_msg=name)
    for wrong in case["must_raise"]:
        with pytest.raises(DifflabError):
            respaced_timesteps(case["config"]["diffusion_steps"], wrong)
    whole = make_schedule("linear", case["config"]["diffusion_steps"])
    compared = 0
    for respacing in {name.rsplit(".", 1)[0] for name in io if "." in name}:
        kept = np.arange(whole.timesteps)
        if respacing not in ("full", "cosine"):
            kept = respaced_timesteps(whole.timesteps, respacing.removeprefix("r"))
        schedule = make_schedule("cosine") if respacing == "cosine" else Schedule(whole.alpha_bar[kept])
        for table, found in {"timestep_map": kept, **_tables(schedule)}.items():
            if f"{respacing}.{table}" in io:
                expected = io[f"{respacing}.{table}"]
                np.testing.assert_allclose(found, expected, rtol=1e-9, atol=0, err_msg=f"{respacing}.{table}")
                compared += 1
    assert compared == sum("." in name for name in io), "a table that nobody compared"


def _tables(schedule: Schedule) -> dict[str, np.ndarray]:
    """The official tables, from our formulas."""
    points = path_of(schedule, np.arange(schedule.timesteps))[::-1]
    steps = [(now, before) for before, now in pairwise(points)]
    posteriors, bar = Posteriors.of(schedule), schedule.alpha_bar
    weights = np.array([posterior_coefficients(*step) for step in steps])
    return {
        "betas": np.array([beta(*step) for step in steps]),
        "log_betas": posteriors.log_large,
        "alphas_cumprod": bar,
        "alphas_cumprod_prev": np.append(1.0, bar[:-1]),
        "alphas_cumprod_next": np.append(bar[1:], 0.0),
        "sqrt_recip_alphas_cumprod": np.array([1 / now.alpha for now, _ in steps]),
        "sqrt_recipm1_alphas_cumprod": np.array([now.sigma / now.alpha for now, _ in steps]),
        "posterior_variance": np.array([posterior_variance(*step) for step in steps]),
        "posterior_log_variance_clipped": posteriors.log_small,
        "posterior_mean_coef1": weights[:, 0],
        "posterior_mean_coef2": weights[:, 1],
    }


def _preprocessing(case: dict[str, Any], io: Arrays) -> None:
    for i, crop in case["config"]["crops"].items():
        found = Transform(crop["image_size"], "adm")(io[f"img_{i}"])
        gap = np.abs(found.astype(int) - io[f"crop_{i}"])
        assert gap.max() <= 1, f"crop {i}"
        assert (gap > 0).mean() <= 0.01, f"crop {i}"
        tensor = encode(io[f"crop_{i}"][None])[0].numpy()
        assert np.abs(tensor - io[f"tensor_{i}"]).max() <= case["tolerance"]["tensor_abs"], f"tensor {i}"
    x = torch.from_numpy(io["decoded"])
    gap = np.abs(decode(x, FAMILIES["dit"].rounding).astype(int) - io["uint8_nhwc"])
    assert gap.max() <= 1
    assert (gap > 0).mean() <= 0.01
