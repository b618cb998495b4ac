"""The README and the documentation do what they say."""

from __future__ import annotations

import ast
import json
import re
import shlex
import shutil
from functools import cache
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from typer.testing import CliRunner

from difflab.cli.app import app
from difflab.core.names import SamplerName, Spacing
from difflab.data.shapes import Shapes
from difflab.errors import DOCS, DifflabError
from difflab.study.measure import METRICS
from difflab.study.plan import plan
from difflab.study.presets import find_study
from difflab.study.spec import Metric, Study

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / DOCS).rglob("*.md"))
SOURCE = ROOT / "src" / "difflab"
GOLDEN = ROOT / "tests" / "golden"
README = (ROOT / "README.md").read_text()
BLOCK = re.compile(r'```(\w+)(?: title="([^"]+)")?\n(.*?)```', re.DOTALL)


def _blocks(language: str) -> list[str]:
    return [text for found, _, text in BLOCK.findall(README) if found == language]


def _run(line: str) -> None:
    program, *arguments = shlex.split(line)
    assert program == "difflab"
    answer = CliRunner().invoke(app, arguments)
    assert answer.exit_code == 0, f"{line}\n{answer.output}\n{answer.exception}"


def test_readme_commands_run_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lines = [line for block in _blocks("bash") for line in block.splitlines() if line.strip()]
    assert len(lines) >= 5
    for line in lines:
        _run(line)


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


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    made = {ROOT / DOCS / "reference" / "cli.md", ROOT / DOCS / "changelog.md"}  # by docs/hooks.py
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists() or (page.parent / target).resolve() in made, target


@pytest.mark.parametrize(
    "page", [ROOT / DOCS / "tutorial.md", *sorted((ROOT / DOCS / "how-to").glob("*.md"))], ids=lambda p: p.stem
)
def test_commands_of_the_page_run_in_order(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that a page shows are written, its `bash` and `python` is run, `console` needs data, a GPU or time."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DIFFLAB_HOME", str(tmp_path / "home"))
    _put_what_readers_have()
    for language, title, text in BLOCK.findall(page.read_text()):
        if title:
            Path(title).write_text(text)
        elif language == "bash":
            for line in text.splitlines():
                _run(line)
        elif language == "python" and page.stem not in _TESTED_APART:
            exec(text, {})


_TESTED_APART = ("add-a-sampler", "scaling")  # below, and in tests/study/test_cluster.py


def _put_what_readers_have() -> None:
    """Checkpoints as official code writes them, a folder of pictures, and one with a folder for each class."""
    for file in ("ddim/container_ckpt/ckpt.pth", "dit/train_checkpoint/0000002.pt", "vdm/trainer_container/model-1.pt"):
        shutil.copy(GOLDEN / file, ".")
    shutil.copytree(GOLDEN / "dit/diffusers_transformer/transformer", "transformer")
    config = json.loads((GOLDEN / "ddim/container_ckpt/case.json").read_text())["config"]
    Path("mine.yml").write_text(yaml.safe_dump(config))
    logs = Path("exp/logs/mine")
    logs.mkdir(parents=True)
    shutil.copy("ckpt.pth", logs)
    for i, picture in enumerate(Shapes(size=48).batch(np.arange(150))[0]):
        for folder in ("photos", f"animals/{('cats', 'dogs')[i % 2]}"):
            Path(folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(f"{folder}/{i:03}.png")


def test_no_command_is_shown_that_is_not_there() -> None:
    """Also of those that need data or time: the command exists, and has the options that it is given."""
    known = {command.name for command in app.registered_commands} | {group.name for group in app.registered_groups}
    for page in (ROOT / "README.md", *PAGES):
        for language, _, text in BLOCK.findall(page.read_text()):
            for line in text.splitlines() if language == "console" else ():
                words = shlex.split(line.removeprefix("$ "), comments=True)
                if "difflab" not in words:
                    continue
                names = words[words.index("difflab") + 1 :]
                assert names[0] in known, line
                told = [names[0], *([names[1]] if names[0] in ("study", "models", "data", "dit", "vdm") else [])]
                shown = CliRunner().invoke(app, [*told, "--help"], env={"COLUMNS": "400"}).output
                for option in re.findall(r"(?<!\S)--[\w-]+", " ".join(names)):
                    assert re.search(rf"(?<![\w-]){option}(?![\w-])", shown), f"{page.name}: {line}: {option}"


def test_every_sampler_spacing_and_metric_has_a_section_in_the_mathematics() -> None:
    headings = re.findall(r"^### (.*)$", (ROOT / DOCS / "mathematics.md").read_text(), re.MULTILINE)
    found = [name for heading in headings for name in re.findall(r"`([^`]+)`", heading)]
    assert len(found) == len(set(found))
    spacings = [name for part in get_args(Spacing) for name in get_args(part) or (part,)]
    assert set(found) == {*get_args(SamplerName), *spacings, *get_args(Metric), *METRICS}


_OFFICIAL = ("main.py", "sample.py", "sample_ddp.py", "train.py")  # scripts of others that pages speak of


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda p: p.name)
def test_pointers_into_the_code_lead_somewhere(page: Path) -> None:
    for file, name in re.findall(r"`([\w/-]+\.py)(?:\s*::\s*([\w.]+))?`", page.read_text()):
        if file in _OFFICIAL and not name:
            continue
        path = next((base / file for base in (SOURCE, ROOT) if (base / file).is_file()), None)
        assert path is not None, f"{file} is not there"
        assert not name or name in _names(path), f"{file} has no {name}"


@cache
def _names(path: Path) -> frozenset[str]:
    """What a module defines: functions, classes, their methods and fields as Class.name, and constants."""

    def within(body: list[ast.stmt], prefix: str) -> set[str]:
        found: set[str] = set()
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                found.add(prefix + node.name)
            if isinstance(node, ast.ClassDef):
                found |= within(node.body, f"{prefix}{node.name}.")
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            found |= {prefix + target.id for target in targets if isinstance(target, ast.Name)}
        return found

    return frozenset(within(ast.parse(path.read_text()).body, ""))


@pytest.mark.parametrize(
    ("arguments", "page"),
    [
        (["data", "show", "lsun-church"], "missing"),
        (["data", "show", "VIRTUAL_imagenet64_labeled.npz"], "missing"),
        (["data", "show", "ucf101"], "missing"),
        (["sample", "lsun-church", "--out", "a.png"], "missing"),
        (["score", "fid", "photos", "photos", "--features", "inception"], "missing"),
        (["score", "fid", "photos", "photos"], "missing"),
        (["stats", "films", "--frames", "9", "--out", "a.npz"], "missing"),
        (["sample", "photos/000.png", "--out", "a.png"], "checkpoint"),
        (["sample", "list.pt", "--out", "a.png"], "checkpoint"),
        (["sample", "other.pt", "--out", "a.png"], "checkpoint"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value,
)
def test_first_mistakes_are_one_sentence_that_leads_to_a_page(
    arguments: list[str], page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("DIFFLAB_HOME", "DIFFLAB_DATA", "XDG_CACHE_HOME", "TORCH_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "nothing"))
    for folder in ("photos", "films"):
        Path(folder).mkdir()
    for i in range(4):
        Image.new("RGB", (48, 48), (i, 0, 0)).save(f"photos/{i:03}.png")
    frames = [Image.new("RGB", (32, 32), (8 * i, 0, 0)) for i in range(9)]
    frames[0].save("films/one.gif", save_all=True, append_images=frames[1:])
    torch.save([1, 2], "list.pt")
    torch.save({"weight": torch.zeros(1)}, "other.pt")
    error = CliRunner().invoke(app, arguments).exception
    assert isinstance(error, DifflabError)
    assert str(error).endswith(f"; see docs/how-to/{page}.md.")
    assert "\n" not in str(error)


def test_doctor_says_where_to_read_on() -> None:
    assert "see docs/how-to/missing.md" in CliRunner().invoke(app, ["doctor"]).output


def test_messages_name_pages_that_are_there() -> None:
    pages = {page for path in SOURCE.rglob("*.py") for page in re.findall(r"\bsee\([\"']([^\"']+)", path.read_text())}
    assert pages
    assert all((ROOT / DOCS / f"{page}.md").is_file() for page in pages), pages


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
