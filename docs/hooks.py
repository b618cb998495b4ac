"""Pages of the site that are made when it is built: the command line's reference, from the commands themselves, and the
changelog, from where it lies."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """mkdocs calls this when it knows the pages that lie in docs/."""
    changelog = (Path(config.docs_dir).parent / "CHANGELOG.md").read_text(encoding="utf-8")
    for path, text in (("reference/cli.md", command_line()), ("changelog.md", changelog)):
        files.append(File.generated(config, path, content=text))
    return files


def command_line() -> str:
    """The reference of all commands, as typer writes it, but for its lists of them: their lines are cut off there."""
    typer = [sys.executable, "-m", "typer", "difflab.cli.app", "utils", "docs", "--name", "difflab"]
    made = subprocess.run([*typer, "--title", "Command line"], capture_output=True, text=True, check=False)
    if made.returncode:
        raise PluginError(f"typer made no reference of the command line: {made.stderr.strip()}")
    told = dict(re.findall(r"^#+ `difflab ([\w ]+)`\n\n(.+)$", made.stdout, re.MULTILINE))
    parts = re.split(r"(?m)^(?=#)", made.stdout)
    return "".join(_whole(part, told) for part in parts)


def _whole(part: str, told: dict[str, str]) -> str:
    """One command's part of the reference, whose list of commands says of each what that one's own part begins with."""
    own = re.match(r"#+ `difflab ([\w ]+)`", part)
    above = f"{own[1]} " if own else ""

    def line(found: re.Match[str]) -> str:
        command = above + found[1]
        return f"* [`{found[1]}`](#difflab-{command.replace(' ', '-')}): {told[command]}"

    head, commands, listed = part.partition("**Commands**:")
    return head + commands + re.sub(r"(?m)^\* `(\w+)`:.*$", line, listed)
