"""The README and the documentation do what they say."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from difflab.cli.app import app

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def _blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_readme_commands_run_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lines = [line for block in _blocks("bash") for line in block.splitlines() if line.strip()]
    assert len(lines) >= 5
    for line in lines:
        program, *arguments = shlex.split(line)
        assert program == "difflab"
        answer = CliRunner().invoke(app, arguments)
        assert answer.exit_code == 0, f"{line}\n{answer.output}\n{answer.exception}"


def test_readme_python_runs() -> None:
    names: dict[str, object] = {}
    for block in _blocks("python"):
        exec(block, names)
    assert names["y"].shape == (16, 32, 32, 3)  # type: ignore[attr-defined]
    assert tuple(names["z"].shape) == (2, 3, 32, 32)  # type: ignore[attr-defined]


def test_readme_make_commands_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"demo", "test", "lint"} <= targets
    assert set(re.findall(r"^make (\w+)", README, re.MULTILINE)) <= targets


@pytest.mark.parametrize("page", [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))], ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


def test_the_documented_sampler_works() -> None:
    """docs/adding-a-sampler.md: on Gaussian data its Euler step reaches the exact flow as the steps grow."""
    import torch

    from difflab.core import sampler
    from difflab.core.exact import GaussianDenoiser
    from difflab.core.noise import GivenNoise
    from difflab.core.schedule import make_schedule, path

    code = re.search(r"```python\n(.*?)```", (ROOT / "docs" / "adding-a-sampler.md").read_text(), re.DOTALL)
    assert code is not None
    names = dict(vars(sampler))
    exec(code.group(1), names)
    euler, model = names["Euler"](), GaussianDenoiser(0.7, 0.25)
    points = path(make_schedule("linear"), 1000)
    start = torch.linspace(-1, 1, 5, dtype=torch.float64)
    end = sampler.final(sampler.trajectory(model, euler, points, GivenNoise(start, [])))
    assert (end - model.flow(start, points[0], points[-1])).abs().max() < 0.02
