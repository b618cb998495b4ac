"""What is planned, against closed forms, published numbers and studies that ran."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from difflab.cli.app import app
from difflab.errors import DifflabError
from difflab.study import trial
from difflab.study.cards import CARDS, throughput_of
from difflab.study.opening import open_benches
from difflab.study.outline import outline_extractor, sketch
from difflab.study.plan import makespan, plan, plan_of
from difflab.study.presets import shipped_study
from difflab.study.run import run_study
from difflab.study.scoring_cost import frechet_seconds, scoring_seconds
from difflab.study.spec import Study
from difflab.study.store import Store
from difflab.study.trial import measured_here
from difflab.study.work import gradient, work_of
from difflab.zoo.card import Card
from difflab.zoo.families import DiTConfig
from difflab.zoo.outline import known_card, outline_classifier, outline_of
from difflab.zoo.registry import entries
from difflab.zoo.sizes import dit_size

META = torch.device("meta")
PAPER = sorted(p.stem for p in (Path(__file__).parents[2] / "src/difflab/study/presets/paper").glob("*.yaml"))


@pytest.fixture
def nothing_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine without models, data and feature networks of others."""
    for name in ("DIFFLAB_HOME", "DIFFLAB_DATA", "TORCH_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))


# Operations.


def test_a_linear_layer_multiplies_each_input_with_each_output() -> None:
    layer = nn.Linear(30, 50, device=META)
    x = torch.zeros(7, 30, device=META)
    work = work_of(layer, lambda: layer(x), 7)
    assert work.flops == 2 * 30 * 50
    assert work.weights == 4 * (30 * 50 + 50)
    assert work.peak == 4 * 7 * 50


def test_a_convolution_multiplies_at_each_place() -> None:
    layer = nn.Conv2d(3, 8, 3, padding=1, device=META)
    work = work_of(layer, lambda: layer(torch.zeros(2, 3, 10, 12, device=META)), 2)
    assert work.flops == 2 * 3 * 8 * 9 * 10 * 12


def test_values_that_are_let_go_live_no_longer() -> None:
    """Of a chain only two neighbours live at once, of a residual branch also what it comes from."""
    layers = nn.ModuleList(nn.Linear(100, 100, device=META) for _ in range(5)).requires_grad_(False)

    def chain() -> Tensor:
        x = torch.zeros(1, 100, device=META)
        for layer in layers:
            x = layer(x)
        return x

    # The input is made inside, so that it is counted, too.
    assert work_of(layers, chain, 1).peak == 2 * 400

    def kept() -> list[Tensor]:
        x = torch.zeros(1, 100, device=META)
        return [layer(x) for layer in layers]

    assert work_of(layers, kept, 1).peak == 6 * 400


def test_a_gradient_costs_another_pass_where_weights_have_none() -> None:
    layer = nn.Sequential(nn.Linear(20, 30), nn.Linear(30, 10)).to(META).requires_grad_(False)
    x = torch.zeros(4, 20, device=META)
    assert work_of(layer, lambda: gradient(layer, x), 4).flops == 2 * work_of(layer, lambda: layer(x), 4).flops


@pytest.mark.parametrize(("size", "gmacs"), [("XL/2", 118.64), ("L/2", 80.71), ("B/2", 23.01), ("S/2", 6.06)])
def test_dit_costs_what_its_paper_says(size: str, gmacs: float) -> None:
    """Peebles and Xie 2023, table 4: Gflops of latents 32x32, a multiplication with addition being one."""
    card = Card(name="dit", family="dit", network=DiTConfig(**dit_size(f"DiT-{size}")))  # type: ignore[arg-type]
    model = outline_of(card)
    told = torch.zeros(1, device=META), torch.zeros(1, dtype=torch.int64, device=META)
    work = work_of(model.network, lambda: model.network(torch.zeros(1, 4, 32, 32, device=META), *told), 1)
    assert work.flops / 2e9 == pytest.approx(gmacs, rel=0.01)


def test_inception_costs_what_is_known() -> None:
    network = outline_extractor("inception").network  # type: ignore[attr-defined]
    pictures = torch.zeros(2, 3, 64, 64, dtype=torch.uint8, device=META)
    assert work_of(network, lambda: network(pictures), 2).flops / 2e9 == pytest.approx(5.7, rel=0.01)


@pytest.mark.parametrize("side", [64, 256])
def test_the_released_classifiers_are_known_in_outline(nothing_here: None, side: int) -> None:
    classifier = outline_classifier(f"adm-classifier{side}")
    logits = classifier(torch.zeros(1, 3, side, side, device=META), torch.zeros(1, device=META))
    assert logits.shape == (1, 1000)


def test_every_official_model_is_known_in_outline(nothing_here: None) -> None:
    official = [entry.name for entry in entries().values() if entry.kind == "official"]
    assert len(official) > 20
    for name in official:
        card = known_card(name)
        assert card is not None, name
        assert outline_of(card).network.training is False


# Calls and cells.


def test_calls_are_those_of_the_network(parts: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    study = Study(
        name="calls", model=parts["tiny"], reference=parts["reference"], features=parts["tiny-features"],
        base={"count": 3}, axes={"steps": [2, 5], "sampler": ["ddim", "heun", "unipc"]}, keep=0,
    )  # fmt: skip
    (bench,) = open_benches([(study, Store(tmp_path))], batch=3, device="cpu")
    asked: list[int] = []
    bench.model.network.register_forward_pre_hook(lambda module, told: asked.append(len(told[0])))
    for cell in plan_of(sketch(study, 3), throughput_of("h100", 1.0)).cells:
        asked.clear()
        list(bench.batches(cell.settings, range(3)))
        assert sum(asked) == 3 * cell.calls


def test_seconds_are_operations_over_speed(study: Study) -> None:
    found = plan_of(sketch(study, 8), throughput_of("h100", 1.0))
    one, four = found.cells[0], found.cells[4]
    assert (one.calls, four.calls) == (1, 4)
    assert four.sampling == pytest.approx(4 * one.sampling)
    assert one.sampling == pytest.approx(24 * found.gflop * 1e9 / found.throughput.network)
    assert [chunk.samples for chunk in one.chunks] == [10, 10, 4]
    assert sum(chunk.seconds for chunk in one.chunks) == pytest.approx(one.seconds)
    assert found.gpu_seconds == pytest.approx(found.wall(1))


def test_guidance_doubles_a_cell_and_an_extension_adds_blocks_with_gradients() -> None:
    dit = plan(shipped_study("dit-cfg", "paper"), "h100")
    plain, guided = dit.cells[0], dit.cells[1]
    assert (plain.calls, guided.calls) == (250, 500)
    assert guided.sampling == pytest.approx(2 * plain.sampling, rel=0.02)  # the decoder is not doubled
    clips = plan(shipped_study("vdm-extend", "paper"), "h100")
    assert [cell.calls for cell in clips.cells] == [250, 3 * 250, 7 * 250]
    first, third = clips.cells[0].sampling, clips.cells[1].sampling
    assert 1.9 < (third - first) / (2 * first) < 2.2  # a block with its gradient is two passes or a little more


@pytest.mark.parametrize("name", PAPER)
def test_every_study_of_paper_scale_is_planned_where_nothing_of_it_is(nothing_here: None, name: str) -> None:
    study = shipped_study(name, "paper")
    found = plan(study, "h200")
    assert [cell.settings for cell in found.cells] == study.cells()
    assert found.gpu_seconds > 3600
    assert found.memory.fits
    assert sum(chunk.samples for chunk in found.cells[0].chunks) == study.base.count


def test_a_model_that_is_not_known_is_one_sentence(study: Study) -> None:
    with pytest.raises(DifflabError, match=r"nowhere: is not on this machine, and .* recipes/nowhere\.yaml"):
        plan(study.model_copy(update={"model": "nowhere"}), "h100")


def test_a_gpu_that_is_not_known_is_one_sentence(study: Study) -> None:
    with pytest.raises(DifflabError, match=r"gpu 'h20' is not known\. Did you mean 'h200'"):
        plan(study, "h20")


# The schedule.


def best_makespan(tasks: list[float], workers: int) -> float:
    """The shortest of all assignments."""
    ends = []
    for where in itertools.product(range(workers), repeat=len(tasks)):
        ends.append(max(sum(t for t, w in zip(tasks, where, strict=True) if w == k) for k in range(workers)))
    return min(ends)


def test_the_longest_task_goes_first() -> None:
    assert makespan([3, 3, 2, 2, 2], 2) == 7  # the best is 6: the rule's own worst case
    assert makespan([1, 1, 4], 2) == 4
    assert makespan([], 3) == 0


def test_a_schedule_is_within_its_bound_of_the_best() -> None:
    draw = random.Random(0)
    for _ in range(40):
        workers, tasks = draw.randint(1, 3), [draw.random() for _ in range(draw.randint(1, 7))]
        found, best = makespan(tasks, workers), best_makespan(tasks, workers)
        assert best - 1e-12 <= found <= best * (4 / 3 - 1 / (3 * workers)) + 1e-12
        assert found >= max(max(tasks), sum(tasks) / workers) - 1e-12


# Disk.


def test_bytes_are_those_on_disk(study: Study, tmp_path: Path) -> None:
    study = study.model_copy(update={"metrics": ("fid", "kid", "precision", "is"), "replicates": 100})
    run_study(study, tmp_path, batch=8, device="cpu")
    found = plan_of(sketch(study, 8), throughput_of("h100", 1.0))
    cells = sorted((tmp_path / "cells").iterdir())
    written = [sum(f.stat().st_size for f in cell.glob("*")) for cell in cells]
    assert len(written) == len(found.cells)
    assert sum(cell.bytes for cell in found.cells) == pytest.approx(sum(written), rel=0.06)
    arrays = sum(f.stat().st_size for f in cells[0].glob("chunk-*.npz"))
    timings = sum(f.stat().st_size for f in cells[0].glob("chunk-*.json"))
    assert sum(chunk.bytes for chunk in found.cells[0].chunks) == pytest.approx(arrays + timings, rel=0.03)


def test_chunks_of_shipped_scenes_have_the_bytes_of_the_truth_checker(tmp_path: Path) -> None:
    study = shipped_study("dit-text-coco", "demo")
    changes = {"base": study.base.model_copy(update={"count": 12, "steps": 2}), "axes": {"guidance": [1.0]}}
    small = study.model_copy(update={**changes, "chunk": 6, "keep": 4, "metrics": ("fid",), "replicates": 10})
    run_study(small, tmp_path, batch=6, device="cpu")
    found = plan_of(sketch(small, 6), throughput_of("h100", 1.0)).cells[0]
    written = [f.stat().st_size for f in sorted(tmp_path.glob("cells/*/chunk-*.npz"))]
    beside = [f.stat().st_size for f in sorted(tmp_path.glob("cells/*/chunk-*.json"))]
    assert [chunk.bytes for chunk in found.chunks] == pytest.approx(
        [a + b for a, b in zip(written, beside, strict=True)], rel=0.02
    )


# Speed.


def test_a_card_that_was_not_measured_takes_the_share_of_one_that_was() -> None:
    known, other = throughput_of("h100", 237.0), throughput_of("a100", 237.0)
    assert other.network / CARDS["a100"].fp32 == pytest.approx(known.network / CARDS["h100"].fp32)
    assert known.network == pytest.approx(249.5e9 / 0.0150)  # 15.0 ms a clip of 249.5 GFLOP
    assert "nothing was measured on an a100" in other.how
    assert "nothing was measured" not in known.how


def test_this_machine_is_tried(study: Study) -> None:
    found = measured_here(sketch(study, 8), "cpu")
    assert 1e7 < found.network < 1e13
    assert 1e7 < found.features < 1e13
    assert plan(study, "cpu", 8).throughput.name == "cpu"


def test_what_is_tried_are_clips_as_long_as_what_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A study may vary the frames, so that its first cell has others than the model was trained on."""
    outline, shapes = sketch(shipped_study("vdm-frames", "demo"), 1), []
    monkeypatch.setattr(trial, "walk", lambda model, *how: shapes.append(model.shape) or iter(()))
    monkeypatch.setattr(trial, "final", lambda steps: None)
    measured_here(outline, "cpu")
    assert set(shapes) == {outline.bench.model_of(outline.bench.study.cells()[0]).shape}
    assert shapes[0] != outline.model.shape


def test_scoring_grows_as_its_products_do() -> None:
    """Measured: 6.9 and 4.6 s for a value and a replicate of 50,000 samples, 193 s for precision, 399 s for KID."""
    each = (frechet_seconds(50_000, 2048, 201) - frechet_seconds(50_000, 2048, 1)) / 200
    assert each == pytest.approx(4.61, rel=0.1)
    assert frechet_seconds(50_000, 2048, 0) == pytest.approx(6.88, rel=0.15)
    assert scoring_seconds(("precision",), 50_000, 2048, 10_000, 200) == pytest.approx(192.9, rel=0.05)
    both = scoring_seconds(("precision", "recall"), 50_000, 2048, 10_000, 200)
    assert both == scoring_seconds(("recall",), 50_000, 2048, 10_000, 200)  # from the same distances
    assert scoring_seconds(("kid",), 50_000, 2048, 10_000, 200) == pytest.approx(399, rel=0.05)
    assert scoring_seconds(("valid",), 50_000, 2048, 10_000, 200) == 0


# The command.


def test_the_command_prints_a_plan_for_people_and_programs(
    nothing_here: None, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["study", "plan", "paper/dit-steps", "--gpu", "h200", "--gpus", "8"]
    app([*asked, "--price", "3.5"], standalone_mode=False)
    said = capsys.readouterr().out
    assert all(part in said for part in ("237.2 GFLOP", "cost: 596", "fits"))
    app([*asked, "--json"], standalone_mode=False)
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert (told["gpus"], len(told["cells"]), told["cost"]) == (8, 4, None)
    assert told["wall seconds"] == pytest.approx(told["gpu seconds"] / 8, rel=0.05)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["ddim-steps", "--gpus", "0"], "gpus is 0, but at least one is needed"),
        (["nowhere.yaml"], "no such study file"),
        (["dit-conditioning"], "compares trainings"),
    ],
)
def test_wrong_words_are_one_sentence(words: list[str], said: str) -> None:
    with pytest.raises(DifflabError, match=said):
        app(["study", "plan", *words], standalone_mode=False)
