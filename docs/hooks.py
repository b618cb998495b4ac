"""Pages of the site that are made when it is built: the command line's reference, from the commands themselves, and the
changelog, from where it lies."""

from __future__ import annotations

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
    """The reference of all commands, as typer writes it."""
    made = subprocess.run(
        [sys.executable, "-m", "typer", "difflab.cli.app", "utils", "docs", "--name", "difflab", "--title", "Command line"],
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode:
        raise PluginError(f"typer made no reference of the command line: {made.stderr.strip()}")
    return made.stdout
