"""What is told beside a study's numbers: how they were made, where, what to know when reading them."""

from __future__ import annotations

import itertools
import platform
import shlex
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import torch

from difflab import __version__
from difflab.core.names import Spacing
from difflab.core.schedule import path
from difflab.data.sources import SHAPES
from difflab.score.scores import metric_name
from difflab.study.bench import Bench, draw_of
from difflab.study.spec import SAID, Metric, Settings, Study
from difflab.zoo.draw import grid_note

Timings = Sequence[Sequence[Mapping[str, Any]]]  # of cells, of their chunks

CAPTIONS_FILE = "captions.txt"  # in a study's folder: what its samples are asked to be, one a line


def metric_names(bench: Bench) -> dict[Metric, str]:
    """What each metric is called with these features."""
    truth: dict[Metric, str] = {
        "valid": "valid clips" if bench.extractor.clips else "valid scenes",
        "accuracy": "class accuracy", "direction": "direction", "caption": "captions fulfilled",
        "caption-one": "captions of one shape", "caption-two": "captions of two shapes",
        **{aspect: f"{aspect} as told" for aspect in SAID if not aspect.startswith("caption")},
    }  # fmt: skip
    passport = bench.extractor.passport()
    fvd = metric_name(passport, "fvd")
    looked: dict[Metric, str] = {
        "fvd-window": f"{fvd}, first {bench.study.window} frames",
        "fvd-last": f"{fvd}, last {bench.study.window} frames",
        "fvd-frozen": f"{fvd}, frames frozen",
        "fvd-shuffled": f"{fvd}, frames shuffled",
    }
    if "fid-frames" in bench.study.metrics:
        looked["fid-frames"] = f"{metric_name(bench.picture_extractor.passport())}, single frames"
    if bench.clip is not None:
        looked["clipscore"] = f"CLIPScore ({Path(bench.study.clip).name})"
    return {m: truth.get(m) or looked.get(m) or metric_name(passport, m) for m in bench.study.metrics}


def passport(bench: Bench) -> dict[str, Any]:
    """How the numbers of all cells were made."""
    card, points = bench.model.card, bench.against.features
    return {
        "model": card.model_dump(mode="json", exclude={"training"}) | {"weights sha256": bench.model.weights_hash},
        **({"classifier": _classifier(bench)} if bench.study.classifier else {}),
        "features": bench.extractor.passport(),
        **({"picture features": bench.picture_extractor.passport()} if "frames" in bench.views else {}),
        **({} if bench.clip is None else {"clip": bench.clip.passport()}),
        **({"captions": _about_captions(bench)} if bench.captions else {}),
        "reference": {
            "source": bench.study.reference,
            "split": bench.study.split,
            "n": bench.statistics.n,
            "made by": bench.statistics.passport,
        },
        **({"autoencoder": codec} if (codec := bench.model.codec.passport()) else {}),
        **({} if points is None else {"reference points": len(points)}),
        "base": bench.study.base.model_dump(mode="json", exclude_none=True),
        "interval": f"95 %; distances and IS by a bootstrap over samples, {bench.study.replicates} replicates, centred "
        "on the plain estimate; shares by Wilson",
        "noise": "Philox, keyed by (seed, sample), counter by step: the same for every cell and batch size",
        "difflab": __version__,
    }


def _about_captions(bench: Bench) -> dict[str, Any]:
    """What samples were asked to be, and what read it."""
    text = bench.model.card.text
    assert text is not None
    source = bench.study.reference
    of = (
        "of scenes or clips that no training shows"
        if source == SHAPES
        else f"one each of items of {source}, drawn at random with a fixed seed; all of it is the reference"
    )
    digest = bench.model.text_encoder.weights_hash()
    return {"of": of, "file": CAPTIONS_FILE, "encoder": text.encoder, "encoder sha256": digest}


def _classifier(bench: Bench) -> dict[str, str]:
    """Which classifier guides."""
    classifier = bench.model.classifier
    return {} if classifier is None else {"name": classifier.name, "weights sha256": classifier.weights_hash}


def notes(bench: Bench, timings: Timings) -> list[str]:
    """What a reader must know to read the numbers, a sentence or two each; timings: see `where`."""
    about = (_about_counts(bench), _about_grids(bench), _about_reference(bench), _about_machines(timings))
    first = [bench.model.card.summary(), *([bench.study.remark] if bench.study.remark else [])]
    return list(dict.fromkeys(itertools.chain(first, *about)))


def _about_counts(bench: Bench) -> Iterator[str]:
    counts = {s.count for s in bench.study.cells()}
    for extractor in bench.extractors:
        if min(counts) < extractor.dim + 1:
            yield (
                f"The {min(counts)} samples of a cell are fewer than the {extractor.dim} features {extractor.name} "
                "need for a covariance of full rank: the level of FD is mostly bias here, and only its differences at "
                "equal n, and for clips at equal length, mean something."
            )
    if len(counts) > 1:
        yield "Cells differ in their count of samples; FD falls with the count, so compare only cells of one count."


def _about_grids(bench: Bench) -> Iterator[str]:
    """Which timesteps were used where that is not what the official code does, and why."""
    cells, usual = bench.study.cells(), bench.model.family.spacing
    for s in cells:
        if note := grid_note(bench.model, draw_of(s)):
            yield note
    spacing, steps = bench.study.base.spacing, sorted(max(2, s.steps) for s in cells)
    if spacing is None or spacing == usual or "spacing" in bench.study.axes:
        return
    first = {name: _first_levels(bench, name, (steps[0], steps[-1])) for name in (spacing, usual)}
    yield (
        f"The timesteps are spaced {spacing}, not {usual} as in the official code. Sampling starts from pure noise, "
        f"and the network is told at its first timestep that there is {first[spacing]} times as much noise as picture; "
        f"with {usual} it is {first[usual]} times, on this model’s {bench.model.card.schedule.name} schedule. Numbers "
        f"with {usual} differ, most at few steps."
    )


def _first_levels(bench: Bench, spacing: Spacing, steps: tuple[int, int]) -> str:
    """sigma / alpha at the first timestep, in words, for the fewest and the most steps."""
    starts = [path(bench.model.schedule, n, spacing)[0] for n in steps]
    told = [f"{float(f'{at.sigma / at.alpha:.2g}'):,g}" if at.alpha else "infinitely many" for at in starts]
    return told[0] if told[0] == told[1] else f"{told[0]} (of {steps[0]} steps) and {told[1]} (of {steps[1]})"


def _about_reference(bench: Bench) -> Iterator[str]:
    n, dim = bench.statistics.n, bench.extractor.dim
    if n is not None and n < dim + 1:
        yield (
            f"The reference has {n} samples, fewer than the {dim} features need for a covariance of full rank: the "
            "level of FD says more of this reference than of what it stands for."
        )
    trained = bench.model.card.trained_on
    if trained.get("source") == bench.study.reference != SHAPES and trained.get("split") == bench.study.split:
        yield (
            "The reference is what the model was trained on, so one that repeats its training samples scores better "
            "than it is."
        )
    if "convention" in (extractor := bench.extractor.passport()):
        yield (
            f"I3D’s weights have sha256 {extractor['sha256'][:16]}…; their publishers state none, so it is taken on "
            "trust that they are the ones of published numbers."
        )
    if skipped := (bench.statistics.passport or {}).get("skipped"):
        yield f"{skipped} broken images of the reference were passed over."


def _about_machines(timings: Timings) -> Iterator[str]:
    chunks = [chunk for cell in timings for chunk in cell]
    if len({str(chunk["machine"]) for chunk in chunks}) > 1:
        yield "Not all samples were drawn on one machine, so times of different cells do not compare."
    elif any(len({chunk["run"] for chunk in cell}) > 1 for cell in timings):
        yield "Samples of one cell were drawn in several runs, or by several workers, which changes their times."
    if len(sizes := sorted({chunk["batch"] for chunk in chunks})) > 1:
        yield f"Samples were drawn in batches of {' and '.join(map(str, sizes))}, which changes their times."


def where(bench: Bench, timings: Timings) -> dict[str, Any]:
    """The machine that drew the samples, and the batch; the present one when no sample was drawn.

    timings: what is recorded beside the chunks of each cell.
    """
    chunks = [chunk for cell in timings for chunk in cell]
    place = chunks[-1]["machine"] if chunks else machine(bench.shelf.device)
    batch = {chunk["batch"] for chunk in chunks}
    finished = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return {**place, **({"batch": batch.pop()} if len(batch) == 1 else {}), "report of": finished}


def command(study: Study, settings: Settings, told: bool = False) -> str:
    """The command line that draws the samples of one cell again; told: by the captions in the study's folder."""
    s = settings
    words = ["difflab", "sample", study.model]
    if study.config:
        words += ["--config", study.config]
    words += ["--sampler", s.sampler, "--steps", str(s.steps)]
    if s.sampler == "ddim":
        words += ["--eta", f"{s.eta:g}"]
    if s.spacing:
        words += ["--spacing", s.spacing]
    if s.official_grid:
        words += ["--official-grid"]
    if s.clip is not None:
        words += ["--clip" if s.clip else "--no-clip"]
    words += ["--prompts", CAPTIONS_FILE] if told else []
    words += _guided(s)
    for name in ("gamma", "corrector"):
        if (value := getattr(s, name)) is not None:
            words += [f"--{name}", f"{value:g}"]
    if s.frames is not None:
        words += ["--frames", str(s.frames)]
    if s.extend is not None:
        words += ["--extend", str(s.extend), "--overlap", str(s.overlap), "--reconstruction", f"{s.reconstruction:g}"]
    if study.classifier and s.classifier_scale is not None:
        words += ["--classifier", study.classifier, "--classifier-scale", f"{s.classifier_scale:g}"]
    words += ["-n", str(s.count), "--seed", str(s.seed), "--out", "samples.npz"]
    return shlex.join(words)


def _guided(s: Settings) -> list[str]:
    """The words of a command line that tell guidance and classes, where they are not as usual."""
    usual, words = Settings(), []
    where = ("guidance_channels", "guidance_low", "guidance_high", "guidance_rescale", "guidance_course")
    for name in ("classes", "guidance", *(where if s.guidance != 1.0 else ())):
        if (value := getattr(s, name)) != getattr(usual, name):
            words += [f"--{name.replace('_', '-')}", f"{value:g}" if isinstance(value, float) else str(value)]
    return words


def machine(device: str) -> dict[str, Any]:
    """Where and with what the numbers are made."""
    threads = torch.get_num_threads()
    return {
        "device": torch.cuda.get_device_name(device)
        if device.startswith("cuda")
        else f"{_cpu()}, {threads} thread{'' if threads == 1 else 's'}",
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "difflab": __version__,
    }


@cache
def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
