"""Golden cases of the metrics: told apart by what their arrays are called, compared within the tolerance they state."""

from __future__ import annotations

import json
import re
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from difflab.data.sources import open_data
from difflab.score.adm import ADM, Suite, collect, reference_of
from difflab.score.extractors import InceptionExtractor
from difflab.score.fvd import with_ddof
from difflab.score.i3d import I3D, resized
from difflab.score.inception import InceptionFID, Resize
from difflab.score.inception_score import adm_inception_score, inception_score
from difflab.score.infinity import extrapolate
from difflab.score.kernel import cmmd, gaussian, kid, mmd
from difflab.score.manifold import manifolds
from difflab.score.metrics import frechet, frechet_features, frechet_to_reference
from difflab.score.moments import Moments
from difflab.score.resize import RESIZES
from difflab.score.statistics import load_statistics

Arrays = dict[str, np.ndarray]
Fill = Callable[[dict[str, list[int]], int], Arrays]
Run = Callable[[], None]

_DTYPES = {"f32": torch.float32, "f64": torch.float64}
_BLOCKS = {"block0": "64", "block1": "192", "block2": "768", "block3": "2048"}
_TAPS = {"64", "192", "768", "2048", "spatial", "logits", "logits_unbiased"}


def recognise(case: dict[str, Any], folder: Path, fill: Fill) -> Run | None:
    """What to run for the case in `folder`, or None when it is none of ours.

    Args:
        case: its `case.json`.
        fill: the recipe that draws weights from shapes and a seed.
    """
    arrays = {path.stem: _load(path) for path in sorted(folder.glob("*.npz"))}
    outputs = arrays.get("outputs", {})
    if isinstance(case.get("weights"), dict) and _is_inception(outputs):
        return lambda: _inception(case, folder, outputs, fill)
    if "modes" in case and all(_image_and_mode(name, case) for name in outputs) and outputs:
        return lambda: _resizes(case, arrays["inputs"], outputs)
    if isinstance(case.get("expected"), dict) and _is_frechet(arrays.get("inputs", {})):
        return lambda: _frechet(case, arrays["inputs"])
    if {"x", "mu", "sigma", "n0", "mu0", "sigma0"} <= arrays.get("data", {}).keys():
        return lambda: _merge(case, arrays["data"])
    if isinstance(case.get("files"), dict):
        return lambda: _formats(case, folder)
    if {"samples_a", "samples_b"} <= arrays.keys():
        return lambda: _end_to_end(case, folder, fill)
    if any(name.endswith("_piergiaj_per_step") for name in outputs):
        return lambda: _i3d(case, folder, outputs, fill)
    if {"x", "y", "video"} <= arrays.get("inputs", {}).keys():
        return lambda: _fvd(case, arrays["inputs"], outputs)
    inputs = arrays.get("inputs", {})
    by_inputs = {
        ("logits",): _inception_scores,
        ("a", "b", "idx_a", "idx_b"): _kid,
        ("real", "fake"): _manifolds,
        ("x", "y", "N", "fd"): _kernels,
    }
    for names, run in by_inputs.items():
        if set(names) <= inputs.keys() and isinstance(case.get("expected"), dict):
            return lambda run=run: run(case, inputs)
    return None


def _load(path: Path) -> Arrays:
    with np.load(path, allow_pickle=False) as file:
        return {key: file[key] for key in file.files}


# Inception: outputs are called {input}_{block or tap}_{precision}


def _is_inception(outputs: Arrays) -> bool:
    parts = [name.split("_", 1)[-1].rsplit("_", 1) for name in outputs]
    return bool(parts) and all(part[0] in _BLOCKS.keys() | _TAPS and part[-1] in _DTYPES for part in parts)


def _inception(case: dict[str, Any], folder: Path, outputs: Arrays, fill: Fill) -> None:
    inputs = _load(_inputs_file(case, folder))
    for precision, dtype in _DTYPES.items():
        expected = {name: value for name, value in outputs.items() if name.endswith(precision)}
        if expected:
            network = InceptionFID.with_weights(_weights(case, folder, fill), _resize_rule(case), dtype)
            _compare_features(network, inputs, expected, _tolerance(case, precision))


def _inputs_file(case: dict[str, Any], folder: Path) -> Path:
    """The case's own inputs, or those of the case that its text points at in brackets."""
    own = folder / "inputs.npz"
    return own if own.exists() else folder / case["inputs"].rsplit("(", 1)[1].rstrip(")")


def _weights(case: dict[str, Any], folder: Path, fill: Fill) -> dict[str, torch.Tensor]:
    shapes = json.loads((folder / case["weights"]["shapes"]).read_text())
    assert "4 dimensions" in case["weights"]["recipe"], case["weights"]["recipe"]
    assert "float32(1.5)" in case["weights"]["recipe"], case["weights"]["recipe"]
    drawn = fill(shapes, case["weights"]["seed"])
    return {
        key: torch.from_numpy(np.asarray(value * np.float32(1.5) if value.ndim == 4 else value))
        for key, value in drawn.items()
    }


def _resize_rule(case: dict[str, Any]) -> Resize:
    return "tf1_bilinear" if "TF1 bilinear" in case["what"] else "torch_bilinear"


def _tolerance(case: dict[str, Any], precision: str) -> dict[str, float]:
    return next(value for name, value in case["tolerance"].items() if name.startswith(precision))


def _compare_features(network: InceptionFID, inputs: Arrays, expected: Arrays, tolerance: dict[str, float]) -> None:
    for key, images in inputs.items():
        names = {
            name: name.removeprefix(f"{key}_").rsplit("_", 1)[0] for name in expected if name.startswith(f"{key}_")
        }
        taps = {name: _BLOCKS.get(label, label) for name, label in names.items()}
        found = network(torch.from_numpy(images), tuple(taps.values()))
        for name, tap in taps.items():
            np.testing.assert_allclose(found[tap].numpy(), expected[name], **tolerance, err_msg=name)


# Resizes: outputs are called {image}_{mode}, every 13th pixel at 299, every 9th at 224


def _image_and_mode(name: str, case: dict[str, Any]) -> tuple[str, str] | None:
    mode = max((mode for mode in case["modes"] if name.endswith(f"_{mode}")), key=len, default=None)
    return None if mode is None else (name.removesuffix(f"_{mode}"), mode)


def _resizes(case: dict[str, Any], inputs: Arrays, outputs: Arrays) -> None:
    for name, expected in outputs.items():
        image, mode = _image_and_mode(name, case)
        size, stride = (224, 9) if mode.endswith("_224") else (299, 13)
        pixels = torch.from_numpy(inputs[image]).permute(2, 0, 1)[None].float()
        full = RESIZES[mode.removesuffix("_224")](pixels, size)[0].permute(1, 2, 0).double().numpy()
        np.testing.assert_allclose(
            full[::stride, ::stride], expected, rtol=0, atol=_resize_tolerance(case, mode), err_msg=name
        )
        if name in case.get("mean_std_of_full_output", {}):
            summary = case["mean_std_of_full_output"][name]
            np.testing.assert_allclose(
                [full.mean(), full.std()], summary, atol=_resize_tolerance(case, mode), err_msg=name
            )


def _resize_tolerance(case: dict[str, Any], mode: str) -> float:
    """8-bit Pillow results may be one level off under another Pillow; the others state their tolerance by name."""
    if "uint8" in mode:
        return 1.0
    return next(value["atol"] for names, value in case["tolerance"].items() if mode in names.split(", "))


# Frechet distances: {set}_mu1, _sigma1 (or the diagonal _var1), _mu2, ..., or features {set}_x, {set}_y


def _is_frechet(inputs: Arrays) -> bool:
    return any(name.endswith(("_sigma1", "_var1")) for name in inputs)


def _frechet(case: dict[str, Any], inputs: Arrays) -> None:
    for name, values in case["expected"].items():
        truth = next(values[key] for key in sorted(values) if key.startswith(("exact", "nuclear_norm")))
        rtol = next(value["rtol"] for names, value in case["tolerance"].items() if name in names.split(","))
        for way, found in _distances(inputs, name).items():
            np.testing.assert_allclose(found, truth, rtol=rtol, err_msg=f"{name} from {way}")


def _distances(inputs: Arrays, name: str) -> dict[str, float]:
    if f"{name}_x" in inputs:
        x, y = inputs[f"{name}_x"], inputs[f"{name}_y"]
        gaussian_x, gaussian_y = Moments.of(x).gaussian(), Moments.of(y).gaussian()
        return {
            "features": frechet_features(x, y),
            "features and covariance": frechet_to_reference(x, gaussian_y),
            "covariances": frechet(gaussian_x, gaussian_y),
        }
    first, second = ((inputs[f"{name}_mu{i}"], _covariance(inputs, name, i)) for i in (1, 2))
    return {"covariances": frechet(first, second)}


def _covariance(inputs: Arrays, name: str, i: int) -> np.ndarray:
    return inputs[f"{name}_sigma{i}"] if f"{name}_sigma{i}" in inputs else np.diag(inputs[f"{name}_var{i}"])


# I3D and FVD


def _i3d(case: dict[str, Any], folder: Path, outputs: Arrays, fill: Fill) -> None:
    shapes = json.loads((folder / case["weights"]["shapes"].split(" ")[0]).read_text())
    assert "5 dimensions except logits.conv3d.weight is multiplied by float32(1.5)" in case["weights"]["recipe"]
    weights = {
        key: torch.from_numpy(np.asarray(w * np.float32(1.5) if w.ndim == 5 and key != "logits.conv3d.weight" else w))
        for key, w in fill(shapes, case["weights"]["seed"]).items()
    }
    theirs = json.loads((folder / "../i3d_key_map.json").read_text())["map"]
    renamed = {theirs[key]: value for key, value in weights.items()}
    networks = {
        "piergiaj_per_step": I3D.with_weights(weights).steps,
        "hassony2": lambda x: I3D.with_weights(renamed).steps(x).mean(2),
        "videogpt_eps1e-5": lambda x: I3D.with_weights(weights, "videogpt").steps(x).mean(2),
    }
    networks["mean"] = lambda x: networks["piergiaj_per_step"](x).mean(2)
    for frames in case["input"]["T"]:
        stream = np.random.Philox(key=[case["input"]["seed"], zlib.crc32(f"video{frames}".encode())])
        low = np.random.Generator(stream).random((2, 3, frames, 28, 28), dtype=np.float32)
        x = (low * 2 - 1) * np.array([0.4, 1.0], np.float32)[:, None, None, None, None]
        x = torch.from_numpy(x.repeat(8, axis=3).repeat(8, axis=4))
        for name, network in networks.items():
            with torch.no_grad():
                np.testing.assert_allclose(network(x), outputs[f"T{frames}_{name}"], **case["tolerance"])


def _fvd(case: dict[str, Any], inputs: Arrays, outputs: Arrays) -> None:
    for ddof in (0, 1):
        found = frechet_features(with_ddof(inputs["x"], ddof), with_ddof(inputs["y"], ddof))
        truth = case["expected"][f"ddof{ddof}_exact(nuclear)"]
        np.testing.assert_allclose(found, truth, rtol=case["tolerance"]["fvd"]["rtol"])
    video = torch.from_numpy(inputs["video"])
    frames = video.flatten(0, 1).permute(0, 3, 1, 2).double()
    for name, how in (("crop", "crop"), ("stretch", "stretch"), ("stretch_tf1", "stretch-tf1")):
        x = (resized(frames, how) / 127.5 - 1).unflatten(0, video.shape[:2]).transpose(1, 2)
        found = x[..., ::17, ::19].numpy()
        np.testing.assert_allclose(found, outputs[name], rtol=0, atol=case["tolerance"]["preprocessing"]["atol"])
        stats = case["preprocessing"]["full_stats_mean_std_min_max"][name]
        np.testing.assert_allclose([x.mean(), x.std(correction=0), x.min(), x.max()], stats, atol=2e-5)


# Merging: n{i}, mu{i}, sigma{i} of shards against the whole, and a set with a large mean


def _merge(case: dict[str, Any], data: Arrays) -> None:
    tolerance = {key: value for key, value in case["tolerance"]["merge"].items() if key in ("rtol", "atol")}
    merged = Moments(len(data["mu"]))
    for i in range(sum(name.startswith("mu") and name[2:].isdigit() for name in data)):
        merged.merge(Moments.from_statistics(int(data[f"n{i}"]), data[f"mu{i}"], data[f"sigma{i}"]))
    for moments in (merged, Moments.of(data["x"])):
        np.testing.assert_allclose(moments.mean, data["mu"], **tolerance)
        np.testing.assert_allclose(moments.cov(), data["sigma"], **tolerance)
        np.testing.assert_allclose(moments.cov(ddof=0), data["sigma_population"], **tolerance)
    if "hard" in data:
        for shards in (1, 7, len(data["hard"])):
            moments = Moments(data["hard"].shape[1])
            for shard in np.array_split(data["hard"], shards):
                moments.update(shard)
            np.testing.assert_allclose(moments.cov(), data["hard_sigma"], rtol=case["tolerance"]["hard"]["rtol"])


def _inception_scores(case: dict[str, Any], inputs: Arrays) -> None:
    logits, rtol = inputs["logits"], case["tolerance"]["rtol"]
    shuffled = logits[np.random.RandomState(2020).permutation(len(logits))]
    for name, expected in case["expected"].items():
        if name.startswith("adm_split_size"):
            found = adm_inception_score(logits, int(name.rsplit("_", 1)[1]))
            np.testing.assert_allclose(found, expected[0], rtol=rtol, err_msg=name)
            continue
        order, splits = (shuffled if name.startswith("shuffle") else logits), int(name.split("_")[-2])
        np.testing.assert_allclose(inception_score(order, splits), expected, rtol=rtol, err_msg=name)


def _kid(case: dict[str, Any], inputs: Arrays) -> None:
    a, b, expected = inputs["a"], inputs["b"], case["expected"]
    rtol = case["tolerance"]["float64"]["rtol"]
    subsets = [mmd(a[i], b[j]) for i, j in zip(inputs["idx_a"], inputs["idx_b"], strict=True)]
    np.testing.assert_allclose(subsets, expected["per_subset_float64"], rtol=rtol)
    np.testing.assert_allclose(np.mean(subsets), expected["mean"], rtol=rtol)
    np.testing.assert_allclose(np.std(subsets), expected["std_population"], rtol=rtol)
    first = a[: len(b)], b
    found = {
        "full_unbiased_unequal_sizes": mmd(a, b),
        "first180_unbiased": mmd(*first),
        "first180_biased": mmd(*first, biased=True),
        "first180_unbiased_rbf_sigma10": mmd(*first, gaussian(10.0)),
    }
    for name, value in found.items():
        np.testing.assert_allclose(value, expected[name], rtol=rtol, err_msg=name)
    for name, values in expected.items():
        if match := re.fullmatch(r"torch_fidelity_(\d+)x(\d+)_seed(\d+)", name):
            drawn = kid(a, b, *map(int, match.groups()))
            np.testing.assert_allclose(drawn.value, values["kernel_inception_distance_mean"], rtol=rtol)
            np.testing.assert_allclose(drawn.subsets.std(), values["kernel_inception_distance_std"], rtol=rtol)


def _manifolds(case: dict[str, Any], inputs: Arrays) -> None:
    for name, expected in case["expected"].items():
        ties, k = name.startswith("ties"), int(name[-1])
        real, fake = (inputs[f"{'ties_' if ties else ''}{side}"] for side in ("real", "fake"))
        for dtype in (np.float32, np.float64):
            found = manifolds(real.astype(dtype), fake.astype(dtype), k, strict="prdc" in name)
            for score in expected.keys() - {"f_score"}:
                np.testing.assert_allclose(getattr(found, score), expected[score], atol=1e-6, err_msg=f"{name} {score}")
                if "torch_fidelity" not in name:
                    np.testing.assert_allclose(getattr(found, score), expected[score], atol=1e-9, err_msg=name)


def _kernels(case: dict[str, Any], inputs: Arrays) -> None:
    expected, tolerance = case["expected"], case["tolerance"]
    found = cmmd(inputs["x"], inputs["y"])
    np.testing.assert_allclose(found, expected["cmmd_float64"], rtol=tolerance["cmmd_float64"]["rtol"])
    line = extrapolate(inputs["N"], inputs["fd"])
    np.testing.assert_allclose(line.value, expected["fd_infinity"], rtol=tolerance["fd_infinity"]["rtol"])
    np.testing.assert_allclose(line.slope, expected["slope"], rtol=tolerance["fd_infinity"]["rtol"])


def _formats(case: dict[str, Any], folder: Path) -> None:
    """Statistics come from the keys; `arr_0` is there for precision and recall alone."""
    one, two = (load_statistics(folder / name) for name in case["files"])
    assert one.mu_s is not None
    assert one.sigma_s is not None
    assert two.mu_s is None
    found = frechet(one.gaussian, two.gaussian)
    np.testing.assert_allclose(
        found, case["expected"]["fd_adm_reference_vs_stats_only"], rtol=case["tolerance"]["rtol"]
    )
    assert len(open_data(folder / "adm_reference.npz")) > 0


def _end_to_end(case: dict[str, Any], folder: Path, fill: Fill) -> None:
    """Image files to scores, with the weights of the case that made their features."""
    beside = folder.parent / "inception_pytorch_fid"
    weights = _weights(json.loads((beside / "case.json").read_text()), beside, fill)
    for name, rule in (("pytorch_fid", "torch_bilinear"), ("tf1", "tf1_bilinear")):
        network = InceptionFID.with_weights(weights, rule)  # type: ignore[arg-type]
        extractor, expected = InceptionExtractor(network, "recipe"), case["expected"][name]
        pictures = [np.stack([item.x for item in open_data(folder / f"samples_{side}.npz")]) for side in "ab"]
        samples, others = (collect([part], extractor, ADM) for part in pictures)
        suite = Suite(samples, reference_of(others, extractor.passport()), extractor.passport())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # 6 pictures are few, and that is the case's point
            found = {metric: suite.score(metric).value for metric in ADM}
        np.testing.assert_allclose(found["fid"], expected["fid"], rtol=2e-4)
        np.testing.assert_allclose(mmd(samples.features, others.features), expected["kid_full"], rtol=1e-3)
        assert found["precision"] == expected["precision_k3"]
        np.testing.assert_allclose(found["recall"], expected["recall_k3"], rtol=1e-6)
        if "sfid" in expected:
            np.testing.assert_allclose(found["sfid"], expected["sfid"], rtol=2e-4)
            np.testing.assert_allclose(found["is"], expected["inception_score_a_1_split"], rtol=1e-5)
        for tap in ("64", "192", "768"):
            if f"fid_{tap}" in expected:
                sides = [
                    network(torch.from_numpy(x.transpose(0, 3, 1, 2).copy()), (tap,))[tap].numpy() for x in pictures
                ]
                np.testing.assert_allclose(frechet_features(*sides), expected[f"fid_{tap}"], rtol=2e-4)
