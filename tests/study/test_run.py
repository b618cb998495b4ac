"""Promises of a study, kept by doing: killed and resumed, any batch size, nothing twice, failures in their row."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from tests.study.conftest import cell_bytes

from difflab.data.shapes import Shapes
from difflab.errors import DifflabError
from difflab.study import chunks as module
from difflab.study.result import read_result
from difflab.study.run import Progress, run_study
from difflab.study.spec import Study


def test_rows_have_scores_costs_and_commands(study: Study, tmp_path: Path) -> None:
    result = run_study(study, tmp_path)
    assert [row.varied for row in result.rows] == [{"steps": s, "eta": e} for s in (1, 2, 4) for e in (0.0, 1.0)]
    for row in result.rows:
        score = row.scores["fid"]
        assert score.low <= score.value <= score.high
        assert score.n == 24
        assert row.calls == row.settings.steps
        assert row.seconds > 0
        assert row.seconds_per_sample > 0
        assert row.command.startswith("difflab sample ")
    assert result.metric_names == {"fid": "FD (tiny-features)"}
    assert len(result.table) == 6
    assert read_result(tmp_path, tmp_path) == result


def test_one_step_ignores_eta(study: Study, tmp_path: Path) -> None:
    """One step lands on clean data, where no noise is added: eta cannot matter."""
    first, second, *_ = run_study(study, tmp_path).rows
    assert first.scores["fid"].value == second.scores["fid"].value
    assert first.key != second.key


def test_second_run_draws_nothing(study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = run_study(study, tmp_path)
    monkeypatch.setattr(module, "_draw_chunk", lambda *_: pytest.fail("a chunk that was there was drawn again"))
    assert run_study(study, tmp_path).rows == before.rows


def test_a_reference_whose_files_changed_is_measured_again(study: Study, tmp_path: Path) -> None:
    folder = tmp_path / "real"
    folder.mkdir()
    pictures = Shapes(size=16).batch(np.arange(30))[0]
    for i, picture in enumerate(pictures):
        Image.fromarray(picture).save(folder / f"{i:02d}.png")
    study = study.model_copy(update={"reference": str(folder), "axes": {"steps": [1]}})
    before = run_study(study, tmp_path / "run").rows[0]
    for i, picture in enumerate(255 - pictures[:15]):
        Image.fromarray(picture).save(folder / f"{i:02d}.png")
    after = run_study(study, tmp_path / "run").rows[0]
    assert after.key == before.key, "the samples are the same"
    assert after.scores["fid"].value != before.scores["fid"].value


def test_a_burst_of_other_work_does_not_move_the_time_of_a_sample(study: Study, tmp_path: Path) -> None:
    before = run_study(study, tmp_path, batch=4).rows[0]
    timing = tmp_path / "cells" / before.key / "chunk-00000.json"
    record = json.loads(timing.read_text())
    each = record["seconds per sample of a batch"]
    record["seconds per sample of a batch"] = [*each[:-1], 1000.0]
    record["seconds"] += 1000.0
    timing.write_text(json.dumps(record))
    after = run_study(study, tmp_path, batch=4).rows[0]
    assert after.seconds > 1000
    assert after.seconds_per_sample < 1


def test_batch_size_changes_nothing_but_rounding(study: Study, tmp_path: Path) -> None:
    pictures = {}
    for batch in (1, 7, 64):
        result = run_study(study, tmp_path / str(batch), batch=batch)
        pictures[batch] = np.concatenate([result.cell(row).pictures(6) for row in result.rows]).astype(int)
    for batch in (1, 7):
        assert np.mean(np.abs(pictures[batch] - pictures[64]) <= 1) >= 0.999


def test_stopped_in_the_middle_of_a_cell_goes_on(study: Study, tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def stop_at(progress: Progress) -> None:
        if progress.settings.steps == 2 and progress.done >= 20:
            raise Stop

    whole = tmp_path / "whole"
    run_study(study, whole)
    with pytest.raises(Stop):
        run_study(study, tmp_path / "stopped", watch=stop_at)
    assert len(cell_bytes(tmp_path / "stopped")) < len(cell_bytes(whole))
    run_study(study, tmp_path / "stopped")
    assert cell_bytes(tmp_path / "stopped") == cell_bytes(whole)


def test_killed_again_and_again_ends_with_the_same_bytes(study: Study, tmp_path: Path) -> None:
    run_study(study, tmp_path / "whole")
    file, killed = tmp_path / "study.yaml", tmp_path / "killed"
    file.write_text(yaml.safe_dump(study.model_dump(mode="json", exclude_none=True)))
    code = "import sys; from difflab.study.run import run_study; run_study(sys.argv[1], sys.argv[2])"
    command, dice = [sys.executable, "-c", code, str(file), str(killed)], random.Random(0)
    seen: dict[str, bytes] = {}
    for _ in range(3):
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        deadline, before = time.monotonic() + 60, len(cell_bytes(killed))
        while process.poll() is None and len(cell_bytes(killed)) == before and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(dice.random() * 0.2)
        process.send_signal(signal.SIGKILL)
        process.wait()
        now = cell_bytes(killed)
        assert {name: now[name] for name in seen} == seen, "something that was finished changed"
        seen = now
    subprocess.run(command, check=True)
    assert cell_bytes(killed) == cell_bytes(tmp_path / "whole")
    assert not list(killed.rglob("*.part")) or all(p.name.startswith(".") for p in killed.rglob("*.part"))


def test_cells_start_from_the_same_noise(study: Study, tmp_path: Path) -> None:
    """At eta 0 and 1 a single step gives the same pictures, because x_T is the same."""
    result = run_study(study, tmp_path)
    a, b = (result.cell(row).pictures(6) for row in result.rows[:2])
    np.testing.assert_array_equal(a, b)


def test_paired_differences_agree_with_the_scores(study: Study, tmp_path: Path) -> None:
    result = run_study(study, tmp_path)
    value = {row.key: row.scores["fid"].value for row in result.rows}
    assert result.differences
    for difference in result.differences:
        assert difference.value == pytest.approx(value[difference.b] - value[difference.a])
        assert difference.low <= difference.value <= difference.high


def test_axes_keep_their_order_on_disk(study: Study, tmp_path: Path) -> None:
    """The first axis is the one that is plotted along, also when it is not the first by name."""
    swapped = study.model_copy(update={"axes": {"steps": [1], "spacing": ["uniform", "trailing"]}})
    result = run_study(swapped, tmp_path)
    assert list(result.study.axes) == ["steps", "spacing"]
    assert list(read_result(tmp_path, tmp_path).rows[0].varied) == ["steps", "spacing"]


@pytest.mark.parametrize("name", ["chunk-00001.npz", "chunk-00001.json", "result.json"])
@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off"])
def test_a_damaged_file_of_a_study_is_named(study: Study, tmp_path: Path, name: str, content: bytes) -> None:
    one = study.model_copy(update={"axes": {"steps": [1]}})
    result = run_study(one, tmp_path)
    damaged = result.cell(result.rows[0]).path / name
    damaged.write_bytes(content)
    (damaged.parent / "result.json").unlink() if name.endswith("npz") else None
    with pytest.raises(DifflabError, match=rf"{name}: this file of a study is damaged; delete it"):
        run_study(one, tmp_path)


def test_another_studys_folder_is_left_alone(study: Study, tmp_path: Path) -> None:
    run_study(study.model_copy(update={"axes": {"steps": [1]}}), tmp_path)
    before = (tmp_path / "study.yaml").read_bytes()
    with pytest.raises(DifflabError, match="holds the study tiny, not other"):
        run_study(study.model_copy(update={"name": "other"}), tmp_path)
    assert (tmp_path / "study.yaml").read_bytes() == before


def test_every_pair_of_cells_with_one_seed_and_count_is_compared(study: Study, tmp_path: Path) -> None:
    result = run_study(study, tmp_path / "all")
    keys = [row.key for row in result.rows]
    assert {(d.a, d.b) for d in result.differences} == {(a, b) for i, a in enumerate(keys) for b in keys[i + 1 :]}
    counts = study.model_copy(update={"axes": {"count": [12, 24]}})
    assert run_study(counts, tmp_path / "counts").differences == []


@pytest.mark.filterwarnings("ignore:.*covariance is singular")
def test_asking_for_the_truth_later_draws_nothing_again(
    parts: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields = {"name": "s", "model": "shapes-unet2d", "reference": "shapes", "base": {"count": 4, "steps": 1}}
    study = Study.model_validate({**fields, "axes": {"seed": [0, 1]}, "replicates": 5})
    run_study(study, tmp_path)
    monkeypatch.setattr(module, "_draw_chunk", lambda *_: pytest.fail("drawn again"))
    rows = run_study(study.model_copy(update={"metrics": ("fid", "valid")}), tmp_path).rows
    assert all(row.scores["valid"].n == 4 for row in rows)


def test_the_floor_is_what_fresh_real_samples_score(
    parts: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fresh scenes against other scenes: small beside noise, and not zero, since they are other scenes. The mean over
    eight sets, and as interval where a ninth would lie: t of 7 degrees of freedom is 2.365 at 97.5 %."""
    from difflab.data.shapes import Shapes
    from difflab.study import measure, reference

    monkeypatch.setattr(reference, "SHAPES_REFERENCE", {"count": 500, "seed": 1})
    monkeypatch.setattr(reference, "shipped_statistics", lambda key: None)
    fields = {"name": "s", "model": parts["tiny"], "reference": "shapes", "features": parts["tiny-features"]}
    study = Study.model_validate({**fields, "base": {"count": 100}, "axes": {"steps": [1]}, "replicates": 20})
    result = run_study(study, tmp_path)
    by_hand = []
    for begin in range(0, 800, 100):
        np.savez(tmp_path / "fresh.npz", Shapes(16, 800, 2).batch(np.arange(begin, begin + 100))[0])
        asked = {"features": parts["tiny-features"], "size": 16, "replicates": 2}
        by_hand.append(measure.score("fid", tmp_path / "fresh.npz", "shapes", **asked).value)
    floor = result.floors["fid"]
    assert (floor.value, floor.n, floor.sets) == (pytest.approx(np.mean(by_hand)), 100, 8)
    assert floor.high - floor.value == pytest.approx(2.365 * np.std(by_hand, ddof=1) * np.sqrt(9 / 8), rel=1e-3)
    assert 0 < floor.value < result.rows[0].scores["fid"].value


def test_floors_are_of_every_metric_and_the_checker_accepts_all_real_scenes(tmp_path: Path) -> None:
    fields = {"name": "s", "model": "shapes-dit", "reference": "shapes", "replicates": 5, "axes": {"steps": [2, 3]}}
    metrics = ["fid", "is", "valid", "accuracy"]
    base = {"count": 80, "classes": "balanced"}
    result = run_study(Study.model_validate({**fields, "base": base, "metrics": metrics}), tmp_path)
    assert list(result.floors) == metrics
    assert result.floors["valid"].value == result.floors["accuracy"].value == 1.0
    assert result.floors["is"].value > result.rows[0].scores["is"].value
    assert {score.n for score in result.floors.values()} == {80}


def test_another_grid_than_the_official_one_is_explained(study: Study, tmp_path: Path) -> None:
    """sigma / alpha is the tangent of the schedule's angle: with T = 100, uniform starts 4 steps at t = 75."""
    base = study.base.model_copy(update={"spacing": "trailing"})
    note = next(n for n in run_study(study.model_copy(update={"base": base}), tmp_path).notes if "spaced" in n)
    angle = (76 / 100 + 0.008) / 1.008 * np.pi / 2
    assert f"and {np.tan(angle):.2g} (of 4) times, on this" in note
    assert note.startswith("The timesteps are spaced trailing, not uniform")


def test_cells_are_drawn_in_turn(study: Study, tmp_path: Path) -> None:
    """So that a while of other work on the machine slows all of them alike."""
    seen: list[tuple[int, bool]] = []
    run_study(study, tmp_path, watch=lambda p: seen.append((p.done, p.scored)))
    assert seen == [(10, False)] * 6 + [(20, False)] * 6 + [(24, False)] * 6 + [(24, True)] * 6


def test_cells_of_different_counts_are_all_drawn_in_order(study: Study, tmp_path: Path) -> None:
    result = run_study(study.model_copy(update={"axes": {"count": [24, 4, 12]}}), tmp_path)
    assert [(row.settings.count, row.scores["fid"].n) for row in result.rows] == [(24, 24), (4, 4), (12, 12)]


def test_a_broken_reference_leaves_no_study_behind(study: Study, tmp_path: Path) -> None:
    folder = tmp_path / "real"
    folder.mkdir()
    Image.fromarray(Shapes(size=16).batch(np.arange(1))[0][0]).save(folder / "0.png")
    (folder / "1.png").write_bytes(b"broken")
    with pytest.raises(DifflabError, match=r"1\.png: not a readable image"):
        run_study(study.model_copy(update={"reference": str(folder)}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_cell_that_fails_is_a_row(study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = module._draw_chunk

    def fails(bench: module.Bench, settings: module.Settings, rows: range) -> tuple[dict, dict]:
        if settings.steps == 2:
            raise RuntimeError("out of memory")
        return draw(bench, settings, rows)

    monkeypatch.setattr(module, "_draw_chunk", fails)
    rows = run_study(study, tmp_path).rows
    assert [bool(row.error) for row in rows] == [False, False, True, True, False, False]
    assert "out of memory" in str(rows[2].error)


def test_everything_missing_is_named_at_once_before_any_work(tmp_path: Path) -> None:
    study = Study(
        name="s", model="no-such-model", reference="no/such/data", features="no-such-features", axes={"steps": [1]}
    )
    with pytest.raises(DifflabError) as caught:
        run_study(study, tmp_path / "out")
    for name in ("no-such-model", "no/such/data", "no-such-features"):
        assert name in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_steps_beyond_the_models_timesteps_are_refused(study: Study, tmp_path: Path) -> None:
    too_many = study.model_copy(update={"axes": {"steps": [10, 101]}})
    with pytest.raises(DifflabError, match=r"101.*100 training timesteps"):
        run_study(too_many, tmp_path / "out")


def test_few_samples_are_noted(study: Study, tmp_path: Path) -> None:
    few = study.model_copy(update={"base": study.base.model_copy(update={"count": 6}), "axes": {"steps": [1]}})
    with pytest.warns(UserWarning, match="covariance is singular"):
        result = run_study(few, tmp_path)
    assert any("mostly bias" in note for note in result.notes)


def test_another_reference_is_scored_anew_without_drawing(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even one that differs in its covariance alone and has no passport."""
    scores = []
    for scale in (1.0, 4.0):
        file = tmp_path / f"{scale}.npz"
        np.savez(file, mu=np.zeros(8), sigma=scale * np.eye(8))
        other = study.model_copy(update={"reference": str(file), "axes": {"steps": [2]}})
        with pytest.warns(UserWarning, match="passport|features"):
            scores.append(run_study(other, tmp_path / "out").rows[0].scores["fid"].value)
        monkeypatch.setattr(module, "_draw_chunk", lambda *_: pytest.fail("drawn again"))
    assert scores[0] != scores[1]
