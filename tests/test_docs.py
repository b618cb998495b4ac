"""The README and the documentation do what they say."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from difflab.cli.app import app
from difflab.study.plan import plan
from difflab.study.presets import find_study
from difflab.study.spec import Study

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
    """docs/how-to/add-a-sampler.md: on Gaussian data its Euler step reaches the exact flow as the steps grow."""
    import torch

    from difflab.core import sampler
    from difflab.core.exact import GaussianDenoiser
    from difflab.core.noise import GivenNoise
    from difflab.core.schedule import make_schedule, path

    code = re.search(r"```python\n(.*?)```", (ROOT / "docs" / "how-to" / "add-a-sampler.md").read_text(), re.DOTALL)
    assert code is not None
    names = dict(vars(sampler))
    exec(code.group(1), names)
    euler, model = names["Euler"](), GaussianDenoiser(0.7, 0.25)
    points = path(make_schedule("linear"), 1000)
    start = torch.linspace(-1, 1, 5, dtype=torch.float64)
    end = sampler.final(sampler.trajectory(model, euler, points, GivenNoise(start, [])))
    assert (end - model.flow(start, points[0], points[-1])).abs().max() < 0.02


SCALING = (ROOT / "docs" / "how-to" / "scaling.md").read_text()


@pytest.mark.parametrize("name", ["dit-steps", "vdm-steps", "samplers"])
def test_the_page_on_scaling_says_what_plans_say(name: str) -> None:
    row = next(line for line in SCALING.splitlines() if line.startswith(f"| `{name}` |") and line.count("|") == 11)
    cells, pflop, hours, hours_of_8, scoring, store, memory, chunks, longest = (
        float(cell.replace(",", "")) for cell in row.strip("|").split("|")[1:]
    )
    study = find_study(Path(f"paper/{name}"))
    assert isinstance(study, Study)
    planned = plan(study, "h200")
    assert (cells, chunks) == (len(planned.cells), len(planned.chunk_seconds()))
    assert pflop == round(planned.flops / 1e15)
    found = {
        hours: planned.gpu_seconds / 3600, hours_of_8: planned.wall(8) / 3600, scoring: planned.scoring / 3600,
        store: planned.bytes / 1e9, longest: max(planned.chunk_seconds()) / 60,
    }  # fmt: skip
    for said, now in found.items():
        assert said == pytest.approx(now, abs=0.051)
    assert memory == round(planned.memory.needed / 2**30)
