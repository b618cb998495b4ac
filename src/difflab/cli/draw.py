"""`difflab sample`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from difflab.cli.options import Batch, Config, Device, Seed, Vae, one_of, pick_device
from difflab.cli.terminal import bar_to, with_bar
from difflab.core.names import Course, SamplerName, Spacing

if TYPE_CHECKING:
    from difflab.zoo.clips import Extension
    from difflab.zoo.draw import Classes, Draw
    from difflab.zoo.model import Model


def sample(
    model: Annotated[str, typer.Argument(help="Zoo name, checkpoint file, or diffusers folder.")],
    out: Annotated[Path, typer.Option(help="samples.npz, which never replaces one of another run; grid.png, clips.gif or .mp4, which do; or a folder.")],
    n: Annotated[int, typer.Option("-n", min=1, help="How many samples.")] = 64,
    sampler: Annotated[str | None, typer.Option(help=f"{one_of(SamplerName)}; ddpm is ancestral, ddpm-noisy ermongroup's, those from heun on are for few steps; the family's own when left out (unet2d: ddim, dit: ddpm).")] = None,
    steps: Annotated[int | None, typer.Option(help="Sampler steps, 1 to the model's training timesteps; the family's own when left out (unet2d: 50, dit: 250).")] = None,
    eta: Annotated[float, typer.Option(help="DDIM stochasticity, 0 (deterministic) to 1 (DDPM).")] = 0.0,
    spacing: Annotated[str | None, typer.Option(help=f"Where the steps lie: {one_of(Spacing)}; when left out the sampler's own (heun: karras, dpmpp and unipc: logsnr) or the family's (unet2d: uniform, dit: respaced).")] = None,
    respacing: Annotated[str | None, typer.Option(help="The timesteps as ADM and DiT write them, such as 10,15,25 or ddim50, in the place of --steps and --spacing.")] = None,
    official_grid: Annotated[bool, typer.Option("--official-grid", help="The reference code's grid, quirks included; uniform and quad only.")] = False,
    clip: Annotated[bool | None, typer.Option("--clip/--no-clip", help="Clamp x0 to [-1, 1]; the sampler's habit when left out.")] = None,
    prompt: Annotated[list[str] | None, typer.Option(help="What a model of captions shall draw; several, given one by one, are taken in turn, and an empty one is none.")] = None,
    prompts: Annotated[Path | None, typer.Option(help="A text file of such, one a line.")] = None,
    classes: Annotated[str, typer.Option(help="random, balanced, or numbers or names in turn, such as 207,360.")] = "random",
    guidance: Annotated[float, typer.Option(help="Scale of classifier-free guidance, of classes or captions; 1 is off.")] = 1.0,
    guidance_channels: Annotated[int | None, typer.Option(help="Guide only so many channels; official DiT guides 3 of 4.")] = None,
    guidance_low: Annotated[float, typer.Option(help="Guide only above this noise level, sigma / alpha.")] = 0.0,
    guidance_high: Annotated[float | None, typer.Option(help="Guide only up to this noise level.")] = None,
    guidance_rescale: Annotated[float, typer.Option(help="Bring the guided output back to the conditional one's spread, 0 (not) to 1 (fully).")] = 0.0,
    guidance_course: Annotated[str, typer.Option(help=f"{one_of(Course)}: how the scale goes from noise to data.")] = "constant",
    classifier: Annotated[str | None, typer.Option(help="A noisy classifier that guides towards the classes: a name such as adm-classifier64, or a file of guided-diffusion.")] = None,
    classifier_scale: Annotated[float | None, typer.Option(help="Scale of the classifier's gradient, 1 when left out; 0 is off.")] = None,
    percentile: Annotated[float | None, typer.Option(help="Dynamic thresholding: clamp each sample at this percentile of |x0|, 0 to 1.")] = None,
    gamma: Annotated[float | None, typer.Option(help="Variance of ddpm, from 0 (the posterior's) to 1 (beta), in log space.")] = None,
    corrector: Annotated[float, typer.Option(help="Step of a Langevin corrector after each step, such as 0.1; 0 is none.")] = 0.0,
    frames: Annotated[int | None, typer.Option(help="Frames of each clip; as many as the model was trained on when left out.")] = None,
    extend: Annotated[int | None, typer.Option(help="Go on, block by block, to clips of so many frames.")] = None,
    init_frames: Annotated[Path | None, typer.Option(help="Begin with the frames of this film or folder of frames.")] = None,
    overlap: Annotated[int | None, typer.Option(min=1, help="Frames that a block begins with; half a clip when left out, or all given ones.")] = None,
    reconstruction: Annotated[float | None, typer.Option(help="Weight with which known frames guide the others, 1 when left out; 0 only puts them in their place.")] = None,
    seed: Seed = 0,
    batch: Batch = 64,
    config: Config = None,
    vae: Vae = None,
    text_encoder: Annotated[str | None, typer.Option(help="What reads the prompts, where it is not the one that the model names: a name, folder or hub id.")] = None,
    prediction: Annotated[str | None, typer.Option(help="Read the output as eps, x0 or v, whatever the card says.")] = None,
    device: Device = None,
) -> None:  # fmt: skip
    """Draw samples from a model. An .npz is drawn in chunks: after a kill the same command goes on."""
    from difflab.core.guidance import Guidance
    from difflab.data.writers import check_target
    from difflab.errors import DifflabError
    from difflab.zoo.draw import Draw, grid_note
    from difflab.zoo.load import load
    from difflab.zoo.sampling import beside, scale_beside

    if init_frames is not None and init_frames.exists() and out.resolve() == init_frames.resolve():
        raise DifflabError(f"{out}: these are the frames to begin with themselves; write the clips to another file.")
    if guidance == 1.0:
        _refuse(
            "does nothing while guidance is off; give its scale too, such as --guidance 2",
            guidance_channels=guidance_channels is not None, guidance_low=guidance_low != 0.0,
            guidance_high=guidance_high is not None, guidance_rescale=guidance_rescale != 0.0,
            guidance_course=guidance_course != "constant",
        )  # fmt: skip
    goes_on = extend is not None or init_frames is not None
    if not goes_on:
        _refuse(
            "does nothing where no frames are known; give --extend or --init-frames too",
            overlap=overlap is not None, reconstruction=reconstruction is not None,
        )  # fmt: skip
    loaded = load(
        model, config=config, prediction=prediction, vae=vae, text_encoder=text_encoder,  # type: ignore[arg-type]
        device=pick_device(device),
    )  # fmt: skip
    loaded = loaded.with_frames(frames)
    if classifier is not None:
        loaded = beside(loaded, classifier)
    check_target(out, n, loaded.frames is not None)
    print(loaded.card.summary())
    how = Guidance(
        guidance, guidance_channels, guidance_low, guidance_high, guidance_rescale, checked(guidance_course, Course)
    )
    draw = Draw(
        sampler or loaded.family.sampler, loaded.steps if steps is None else steps, eta, spacing,  # type: ignore[arg-type]
        official_grid, clip, respacing, read_classes(loaded, classes), how, percentile, gamma, corrector,
        read_prompts(prompt, prompts), scale_beside(classifier, classifier_scale),
    )  # fmt: skip
    if note := grid_note(loaded, draw):
        print(note)
    null = loaded.card.network.null_class
    if null is not None and not isinstance(draw.classes, str) and null in draw.classes:
        print(f"Class {null} is 'no class': samples of it are unconditional.")
    extension = _extension(loaded, extend, init_frames, overlap, reconstruction) if goes_on else None
    draw_to(out, loaded, draw, n, seed, batch, extension)


def read_prompts(given: list[str] | None, file: Path | None) -> tuple[str, ...]:
    """Prompts given one by one, or the lines of a file. Raises DifflabError for both, or a file without any."""
    from difflab.errors import DifflabError

    if file is None:
        return tuple(given or ())
    if given:
        raise DifflabError(f"prompts come from --prompt and from {file}; give one of the two.")
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DifflabError(f"{file}: cannot be read; give a text file with a prompt in each line.") from error
    if not lines:
        raise DifflabError(f"{file}: is empty; give a text file with a prompt in each line.")
    return tuple(lines)


def _refuse(why: str, **given: bool) -> None:
    """Raise DifflabError for the first option that was given."""
    from difflab.errors import DifflabError

    for name, was_given in given.items():
        if was_given:
            raise DifflabError(f"--{name.replace('_', '-')} {why}.")


def draw_to(out: Path, model: Model, draw: Draw, n: int, seed: int, batch: int, extension: Extension | None) -> None:
    """Samples 0 to n - 1: an .npz in chunks that outlive a kill, anything else in one go."""
    from difflab.data.writers import save_samples
    from difflab.study.draws import Share, draw_npz
    from difflab.zoo.clips import batches_of

    what = "samples" if model.frames is None else "clips"
    if out.suffix == ".npz" and not out.is_dir():
        with bar_to(n, what) as watch:
            drawn = draw_npz(out, model, draw, n=n, seed=seed, batch=batch, extension=extension, watch=watch)
    else:
        drawn = save_samples(out, with_bar(batches_of(model, draw, seed, range(n), batch, extension), n, what))
    if Share.of_environment().rank == 0:
        print(f"{n} {what} in {out}{'' if drawn else ', drawn before by this command'}")


def _extension(
    model: Model, length: int | None, init: Path | None, overlap: int | None, reconstruction: float | None
) -> Extension:
    """How clips begin with given frames, or with drawn ones, and are continued to `length` frames."""
    from difflab.data.clips import beginning
    from difflab.errors import DifflabError
    from difflab.zoo.clips import Extension
    from difflab.zoo.codec import encode

    if model.frames is None:
        raise DifflabError(
            f"{model.card.name}: is a model of pictures, which have no frames; leave --extend and --init-frames out."
        )
    known = None if init is None else encode(beginning(init, overlap, model.card.side)[None])
    shared = overlap if overlap is not None else (known.shape[2] if known is not None else max(1, model.frames // 2))
    return Extension(length, shared, 1.0 if reconstruction is None else reconstruction, known)


def checked(value: str, names: Any) -> Any:
    """`value` if it is one of a Literal's members. Raises DifflabError with the nearest name."""
    from difflab.errors import DifflabError, suggest

    if value not in get_args(names):
        raise DifflabError(f"{value!r} is not one of {one_of(names)}.{suggest(value, get_args(names))}")
    return value


def read_classes(model: Model, text: str) -> Classes:
    """`random`, `balanced`, or the numbers of classes given by number or, where the card has names, by name."""
    from difflab.errors import DifflabError, suggest

    if text in ("random", "balanced"):
        return text  # type: ignore[return-value]
    names = {name.lower(): number for number, name in enumerate(model.card.classes)}
    numbers = []
    for part in [text] if text.lower() in names else text.split(","):
        word = part.strip().lower()
        if word.isdecimal():
            numbers.append(int(word))
        elif word in names:
            numbers.append(names[word])
        else:
            raise DifflabError(
                f"class {part.strip()!r} is not known; give numbers, random or balanced.{suggest(word, names) if names else ''}"
            )
    return tuple(numbers)
