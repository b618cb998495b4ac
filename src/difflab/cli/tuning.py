"""`difflab tune`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from difflab.cli.options import Batch, Config, Device, Features, Out, Split, pick_device
from difflab.cli.terminal import print_table

if TYPE_CHECKING:
    from difflab.study.tune import Reported


def tune(
    model: Annotated[str, typer.Argument(help="Zoo name, checkpoint file, or diffusers folder.")],
    budget: Annotated[int, typer.Option(help="Network calls a sample; a guided step makes two.")] = 10,
    reference: Annotated[str | None, typer.Option(help="What samples are scored against: a data set, folder or statistics; what the model was trained on when left out.")] = None,
    count: Annotated[int, typer.Option(min=8, help="Samples of each setting that is among the last few.")] = 1000,
    config: Config = None,
    split: Split = None,
    features: Features = None,
    out: Out = None,
    batch: Batch = 64,
    device: Device = None,
) -> None:  # fmt: skip
    """Find the sampler, grid and guidance with the least FD, or FVD of clips, for a number of network calls.

    It chooses on one seed and reports on others. A search that was stopped goes on where it was.
    """
    import itertools
    import shlex

    from difflab.cli.terminal import bar_to
    from difflab.files import exists
    from difflab.places import place
    from difflab.study.record import CAPTIONS_FILE, command
    from difflab.study.spec import Study
    from difflab.study.tune import REPORT
    from difflab.study.tune import tune as search

    folder = place(f"runs/tune-{Path(model).stem}-{budget}" if out is None else out)
    with bar_to(None, "settings") as bar:
        scored = itertools.count(1)
        found = search(
            model, budget, folder, reference=reference, config=config, split=split, features=features, count=count,
            batch=batch, device=pick_device(device),
            watch=lambda progress: bar(next(scored)) if progress.scored else None,
        )  # fmt: skip
    rows = [
        [s.sampler, str(s.steps), str(s.spacing), f"{s.guidance:g}", f"{value:.4g}"] for s, value in found.finalists
    ]
    print_table(["sampler", "steps", "spacing", "guidance", f"{found.metric}, one seed"], rows)
    print(f"on {len(REPORT)} other seeds of {count} samples, with 95 % intervals of their mean:")
    for name, one in (("chosen", found.winner), ("usual", found.usual)):
        print(f"  {name}: {_told(one)}: {found.metric} {one.value:.4g} [{one.low:.4g}, {one.high:.4g}]")
    study = Study(name="tune", model=model, config=config, reference=reference or "", axes={"seed": [0]})
    captions = folder / "report-0" / CAPTIONS_FILE
    words = command(study, found.winner.settings, told=exists(captions)).replace(CAPTIONS_FILE, str(captions))
    print(f"to sample so: {words}")
    print(f"all of it: {shlex.quote(str(folder / 'tuned.json'))}")


def _told(one: Reported) -> str:
    s = one.settings
    guided = f", guidance {s.guidance:g}" if s.guidance != 1.0 else ""
    return f"{s.sampler}, {s.steps} steps, spacing {s.spacing}{guided}"
