"""The tree of commands."""

from __future__ import annotations

from typing import Annotated

import typer

from difflab import __version__
from difflab.cli import checks, data, ddim, dit, draw, measure, studies, training, tuning, vdm, zoo

app = typer.Typer(
    help="A laboratory for diffusion models: from checkpoint to report, with error bars.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False) -> None:
    if version:
        print(f"difflab {__version__}")
        raise typer.Exit


app.command("reproduce")(studies.reproduce)
app.command("sample")(draw.sample)
app.command("score")(measure.score)
app.command("stats")(measure.stats)
app.command("train")(training.train)
app.add_typer(studies.app, name="study")
app.command("report")(studies.report)
app.command("tune")(tuning.tune)
app.add_typer(zoo.app, name="models")
app.add_typer(data.app, name="data")
app.command("convert")(zoo.convert)
app.command("doctor")(checks.doctor)
app.command("ddim")(ddim.ddim)
app.add_typer(dit.app, name="dit")
app.add_typer(vdm.app, name="vdm")
