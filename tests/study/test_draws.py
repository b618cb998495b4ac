from __future__ import annotations

import threading

import numpy as np
import pytest
from tests.zoo.dits import tiny_dit

from difflab.core.guidance import Guidance
from difflab.errors import DifflabError
from difflab.study import draws
from difflab.study.draws import Share, draw_npz
from difflab.zoo.draw import Draw, labels_of
from difflab.zoo.sampling import sample_batches

DRAW = Draw("ddpm", 3, guidance=Guidance(2.0))


class Stop(Exception):
    """Stands for a crash."""


@pytest.fixture(scope="module")
def model():
    return tiny_dit(in_channels=3)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(draws, "CHUNK", 4)
    monkeypatch.setattr(draws, "_WAIT", 0.01)


def test_all_samples_and_their_classes_come_in_one_file(model, tmp_path):
    out = tmp_path / "samples.npz"
    assert draw_npz(out, model, DRAW, n=10, seed=3) == 10
    with np.load(out) as found:
        expected = np.concatenate(
            [p for i in (0, 4, 8) for p in sample_batches(model, DRAW, 3, range(i, min(i + 4, 10)), 64)]
        )
        assert np.array_equal(found["arr_0"], expected)
        assert np.array_equal(found["arr_1"], labels_of(model, DRAW, 3, range(10)).numpy())
    assert [path.name for path in tmp_path.iterdir()] == ["samples.npz"]


def test_after_a_kill_the_same_call_goes_on_and_ends_with_the_same_bytes(model, tmp_path):
    whole, cut = tmp_path / "whole.npz", tmp_path / "cut.npz"
    draw_npz(whole, model, DRAW, n=10, seed=3)

    def stop(done: int) -> None:
        if done >= 8:
            raise Stop

    with pytest.raises(Stop):
        draw_npz(cut, model, DRAW, n=10, seed=3, watch=stop)
    assert not cut.exists()
    assert draw_npz(cut, model, DRAW, n=10, seed=3) == 2, "what was there is not drawn again"
    assert cut.read_bytes() == whole.read_bytes()


def test_the_same_call_again_draws_nothing_and_another_leaves_the_file_alone(model, tmp_path):
    out, foreign = tmp_path / "samples.npz", tmp_path / "foreign.npz"
    assert draw_npz(out, model, DRAW, n=10, seed=3) == 10
    before = out.read_bytes()
    assert draw_npz(out, model, DRAW, n=10, seed=3) == 0
    foreign.write_text("hours of work")
    (tmp_path / "foreign.npz.parts").mkdir()  # parts beside it give no right to it
    for path in (out, foreign):
        with pytest.raises(DifflabError, match=f"{path.name}: is there already, of another run; delete it"):
            draw_npz(path, model, DRAW, n=10, seed=4)
    assert out.read_bytes() == before
    assert foreign.read_text() == "hours of work"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["foreign.npz", "foreign.npz.parts", "samples.npz"]


def test_a_kill_after_the_file_was_written_leaves_parts_that_go(model, tmp_path, monkeypatch):
    out = tmp_path / "samples.npz"

    def stop(*_asked):
        raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(draws, "_await_others", stop)
        with pytest.raises(Stop):
            draw_npz(out, model, DRAW, n=10, seed=3)
    before = out.read_bytes()
    assert draw_npz(out, model, DRAW, n=10, seed=3) == 0
    assert out.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["samples.npz"]


def test_what_cannot_be_drawn_leaves_nothing_in_the_way(model, tmp_path, monkeypatch):
    def full(*_asked):
        raise MemoryError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(draws, "batches_of", full)
        with pytest.raises(MemoryError):
            draw_npz(tmp_path / "samples.npz", model, DRAW, n=10, seed=3)
    assert not list(tmp_path.iterdir())
    assert draw_npz(tmp_path / "samples.npz", model, DRAW, n=2, seed=4) == 2


def test_two_processes_draw_what_one_does(model, tmp_path):
    one, two = tmp_path / "one.npz", tmp_path / "two.npz"
    draw_npz(one, model, DRAW, n=10, seed=3)
    counts = {}

    def share(rank: int) -> None:
        counts[rank] = draw_npz(two, model, DRAW, n=10, seed=3, share=Share(rank, 2))

    threads = [threading.Thread(target=share, args=(rank,)) for rank in (1, 0)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts == {0: 6, 1: 4}
    assert two.read_bytes() == one.read_bytes()


@pytest.mark.parametrize(
    ("changes", "field"), [({"seed": 4}, "seed"), ({"n": 12}, "n"), ({"draw": Draw("ddpm", 4)}, "draw")]
)
def test_parts_of_another_run_are_left_alone(model, tmp_path, changes, field):
    out = tmp_path / "samples.npz"

    def stop(done: int) -> None:
        raise Stop

    with pytest.raises(Stop):
        draw_npz(out, model, DRAW, n=10, seed=3, watch=stop)
    told = {"draw": DRAW, "n": 10, "seed": 3, **changes}
    with pytest.raises(DifflabError, match=f"parts of a run with another {field}"):
        draw_npz(out, model, told.pop("draw"), **told)


def test_a_damaged_part_is_named(model, tmp_path):
    out = tmp_path / "samples.npz"

    def damage(done: int) -> None:
        (tmp_path / "samples.npz.parts" / "chunk-00000.npy").write_bytes(b"half")

    with pytest.raises(DifflabError, match=r"chunk-00000\.npy: this part is damaged"):
        draw_npz(out, model, DRAW, n=4, watch=damage)
