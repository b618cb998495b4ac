"""Studies of clips, on an untrained network: what is measured, against what, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import difflab
from difflab.data.clips import Window
from difflab.data.shapes_clips import ShapesClips
from difflab.data.writers import save_samples
from difflab.errors import DifflabError
from difflab.report.findings import findings
from difflab.report.nearest import near_training
from difflab.report.page import Chapter, build_book
from difflab.score.fvd import frozen, shuffled, with_ddof
from difflab.score.metrics import frechet_features, frechet_to_reference
from difflab.score.statistics import save_statistics
from difflab.study import measure, memory
from difflab.study import reference as of_reference
from difflab.study.features import open_extractor
from difflab.study.opening import open_benches
from difflab.study.reference import Reference, picture_batches
from difflab.study.run import run_study
from difflab.study.spec import Study
from difflab.zoo.card import Card
from difflab.zoo.checkpoint import save_checkpoint
from difflab.zoo.families import FAMILIES, ScheduleConfig, UNet3DConfig

pytestmark = pytest.mark.filterwarnings("ignore:FD:UserWarning")


@pytest.fixture(autouse=True)
def small_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(of_reference, "CLIPS_REFERENCE", {"count": 600, "seed": 1})


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    config = UNet3DConfig(
        image_size=32, num_frames=4, dim=8, dim_mults=(1,), attn_heads=1, attn_dim_head=8, cond_dim=4, num_classes=16,
        patch=8, use_sparse_linear_attn=False,
    )  # fmt: skip
    card = Card(name="tiny", family="unet3d", network=config, schedule=ScheduleConfig(name="cosine", timesteps=50))
    path = tmp_path_factory.mktemp("clips") / "tiny.safetensors"
    save_checkpoint(path, card, FAMILIES["unet3d"].build(config).state_dict())
    return str(path)


def study(model: str, **changes) -> Study:
    fields = {
        "name": "clips", "model": model, "reference": "shapes", "base": {"count": 6, "steps": 2, "classes": "balanced"},
        "axes": {"steps": [1, 2]}, "metrics": ["fvd"], "keep": 4, "chunk": 4, "replicates": 5,
    }  # fmt: skip
    return Study.model_validate({**fields, **changes})


def trained_on(model: str, folder: Path, data: dict[str, object]) -> str:
    """The model with a card that says what it was trained on."""
    loaded = difflab.load(model)
    card = loaded.card.model_copy(update={"training": {"recipe": {"data": data}}})
    path = folder / "trained.safetensors"
    save_checkpoint(path, card, loaded.network.state_dict())
    return str(path)


def test_every_view_of_clips_is_scored_with_its_floor(model, tmp_path):
    metrics = ["fvd", "fvd-shuffled", "fvd-frozen", "kvd", "direction", "accuracy", "valid"]
    asked = study(model, metrics=metrics, base={"count": 80, "steps": 2, "classes": "balanced"})
    result = run_study(asked, tmp_path, device="cpu")
    assert list(result.floors) == metrics
    assert result.metric_names["fvd"] == "FD (shapes-clip)"
    assert result.metric_names["fvd-frozen"] == "FD (shapes-clip), frames frozen"
    assert result.floors["direction"].value == result.floors["valid"].value == 1.0
    assert result.floors["fvd"].value < result.floors["fvd-shuffled"].value < result.floors["fvd-frozen"].value
    assert all(row.scores["fvd"].value > result.floors["fvd"].value for row in result.rows)
    assert result.cell(result.rows[0]).pictures(9).shape == (4, 4, 32, 32, 3)
    told = " ".join(findings(result))
    assert "Is motion seen?" in told
    assert "with the frames of each shuffled" in told
    assert "The best FD, frames" not in told  # of clips that were spoilt on purpose none is better
    assert "--frames" not in result.rows[0].command
    page = build_book([Chapter("vdm", [result])], tmp_path / "report").read_text()
    assert page.count("data:image/png;base64") == 2
    assert "What “timesteps” means" in page


def test_lengths_compare_by_their_first_frames(model, tmp_path):
    """Each length has real clips of its own, and in the window all have the same."""
    asked = study(model, metrics=["fvd-window", "fvd"], axes={"frames": [3, 6]}, window=3)
    result = run_study(asked, tmp_path, device="cpu")
    short, long = result.rows
    assert short.scores["fvd"].value == pytest.approx(short.scores["fvd-window"].value)
    assert long.scores["fvd"].value != pytest.approx(long.scores["fvd-window"].value)
    assert list(result.floors) == ["fvd-window"]
    assert [list(row.floors) for row in result.rows] == [["fvd"], ["fvd"]]
    assert long.command.endswith("--frames 6 -n 6 --seed 0 --out samples.npz")
    assert [result.cell(row).pictures(1).shape[1] for row in result.rows] == [3, 6]
    build_book([Chapter(None, [result])], tmp_path / "report")


def test_single_frames_are_measured_as_pictures(model, tmp_path):
    """Of clip i frame i modulo 4, by the features of pictures, against single frames of real clips."""
    asked = study(model, metrics=["fid-frames"], base={"count": 6, "classes": "balanced"}, axes={"steps": [2]}, keep=6)
    result = run_study(asked, tmp_path, device="cpu")
    assert result.metric_names["fid-frames"] == "FD (shapes-image), single frames"
    (row,) = result.rows
    clips = result.cell(row).pictures(6)
    frames = np.stack([clip[i % 4] for i, clip in enumerate(clips)])
    features = open_extractor("shapes-image")
    real = Reference("shapes", size=32, window=Window(4), single=True)
    expected = frechet_to_reference(features(frames), real.statistics(features, tmp_path / "reference").gaussian)
    assert row.scores["fid-frames"].value == pytest.approx(expected, rel=1e-4)
    assert result.floors["fid-frames"].value < expected


def test_extended_clips_are_measured_by_their_last_frames(model, tmp_path):
    """A clip of 8 frames in blocks of 4 that share 2 is drawn in three; nothing is extended to what is there."""
    base = {"count": 6, "steps": 2, "classes": "balanced", "extend": 4, "overlap": 2}
    asked = study(model, metrics=["fvd-last", "fvd", "valid"], base=base, axes={"extend": [4, 8]}, window=4, keep=6)
    result = run_study(asked, tmp_path, device="cpu")
    short, long = result.rows
    assert short.scores["fvd-last"].value == pytest.approx(short.scores["fvd"].value)
    assert long.scores["fvd-last"].value != pytest.approx(long.scores["fvd"].value)
    assert (short.calls, long.calls) == (2, 6)
    assert "--extend 8 --overlap 2 --reconstruction 1 -n 6" in long.command
    clips = [result.cell(row).pictures(6) for row in result.rows]
    np.testing.assert_array_equal(clips[1][:, :4], clips[0])
    plain = difflab.sample(difflab.load(model), n=6, sampler="ddim", steps=2, classes="balanced")
    assert np.abs(clips[0].astype(int) - plain).max() <= 1
    build_book([Chapter("vdm", [result])], tmp_path / "report")
    shorter = study(model, base=base | {"extend": 1, "overlap": 3}, axes={"steps": [1]}, keep=1)
    assert run_study(shorter.model_copy(update={"metrics": ("fvd",)}), tmp_path / "b", device="cpu").rows[0].calls == 1


def test_samples_are_shown_beside_the_nearest_training_samples(model, tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "MOST", 40)
    films = str(film_folder(tmp_path / "films", count=8, frames=4))
    asked = study(
        trained_on(model, tmp_path, {"source": "shapes", "seed": 0}), nearest=3, axes={"steps": [2, 1]},
        reference=films, features="shapes-clip",
    )  # fmt: skip
    result = run_study(asked, tmp_path / "out", device="cpu")
    near = near_training(result)
    assert near is not None
    assert (near.row.varied["steps"], near.among, near.real.shape) == (2, 40, (3,))
    features = open_extractor("shapes-clip")
    trained = ShapesClips(frames=4, seed=0).batch(np.arange(40))[0]
    gaps = np.linalg.norm(features(result.cell(near.row).pictures(3))[:, None] - features(trained), axis=2)
    np.testing.assert_allclose(near.distances, gaps.min(1), rtol=1e-4)
    np.testing.assert_array_equal(near.pictures, trained[gaps.argmin(1)])
    page = build_book([Chapter(None, [result])], tmp_path / "report").read_text()
    assert "the nearest of 40 training samples" in page
    assert "As many real samples" in page
    fewer = run_study(asked.model_copy(update={"axes": {"steps": [1]}}), tmp_path / "out", device="cpu")
    assert near_training(fewer).row.varied == {"steps": 1}  # a cell that was scored before, but was not the dearest


def test_real_samples_that_were_trained_on_are_no_measure(model, tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "MOST", 40)
    same = trained_on(model, tmp_path, {"source": "shapes", "seed": 0})  # whatever the seed, clips come up again
    near = near_training(run_study(study(same, nearest=2, axes={"steps": [1]}), tmp_path / "out", device="cpu"))
    assert near is not None
    assert near.real.size == 0
    assert "As many real" not in near.caption


def test_another_order_of_frames_has_another_floor(model, tmp_path):
    """The seed of the noise also shuffles: floors that are kept must not outlive it."""
    asked = study(model, metrics=["fvd-shuffled"], axes={"steps": [1]})
    first = run_study(asked, tmp_path / "a", device="cpu")
    other = asked.model_copy(update={"base": asked.base.model_copy(update={"seed": 9})})
    kept, fresh = (run_study(other, tmp_path / out, device="cpu").floors["fvd-shuffled"] for out in ("a", "b"))
    assert kept == fresh != first.floors["fvd-shuffled"]


def test_views_look_at_the_frames_they_name(model, tmp_path):
    (bench,) = open_benches([(study(model, metrics=["fvd-window", "fvd-last"], window=2), tmp_path)], device="cpu")
    clips = np.arange(2 * 5 * 3, dtype=np.uint8).reshape(2, 5, 1, 1, 3)
    np.testing.assert_array_equal(bench.seen(clips, "window", 0), clips[:, :2])
    np.testing.assert_array_equal(bench.seen(clips, "last", 0), clips[:, 3:])


def test_lengths_are_told_beside_real_clips_as_long(model, tmp_path):
    asked = study(model, metrics=["valid", "fvd"], axes={"frames": [3, 4]})
    told = " ".join(findings(run_study(asked, tmp_path, device="cpu")))
    assert "lengths do not compare by it: longer clips have more frames in which to go wrong" in told
    assert "lengths do not compare by it: each has its own real clips" in told
    assert told.count("(of real samples") == 2  # of distances; all real clips are valid
    assert "The best" not in told


def test_statistics_of_clips_can_be_made_from_films(tmp_path):
    films = str(film_folder(tmp_path / "films", count=12, frames=8))
    made = measure.stats(films, tmp_path / "s.npz", features="shapes-clip", window=Window(4, stride=2))
    assert (made.n, made.passport["clips"]) == (12, "clips of 4 frames, stride 2")
    with pytest.raises(DifflabError, match="the features shapes-clip are of clips; give --frames"):
        measure.stats(films, tmp_path / "t.npz", features="shapes-clip")


def test_training_samples_must_be_known(model, tmp_path):
    with pytest.raises(DifflabError, match="does not say what it was trained on"):
        run_study(study(model, nearest=2), tmp_path)
    with pytest.raises(DifflabError, match="nowhere"):
        run_study(study(trained_on(model, tmp_path, {"source": "/nowhere"}), nearest=2), tmp_path)
    with pytest.raises(ValueError, match="nearest is 5, but only 4 samples are kept"):
        study(model, nearest=5)


@pytest.mark.parametrize(("last", "expected"), [(2, [[2, 3], [2, 3], [2, 3], [2, 3], [2, 3]]), (None, [0, 1, 2, 3, 0])])
def test_excerpts_look_at_last_or_single_frames(last, expected):
    reference = Reference("shapes", window=Window(4), last=last, single=last is None)
    clips = ShapesClips(frames=4, seed=1).batch(np.arange(5))[0]
    seen = [clips[i][np.array(at)] for i, at in enumerate(expected)]
    assert reference.dataset is not None
    np.testing.assert_array_equal(next(picture_batches(reference.dataset, order=np.arange(5)))[0], seen)
    np.testing.assert_array_equal(reference.dataset[3].x, seen[3])
    assert reference.dataset.description.endswith("of each")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"axes": {"extend": [8]}, "base": {"count": 6, "extend": 4, "overlap": 4}}, "overlap is 4, but must lie"),
        ({"metrics": ["fid"]}, "the metric 'fid' is one of pictures, but tiny draws clips; take fvd"),
        ({"features": "shapes-image"}, "tiny draws clips, but the features shapes-image are of pictures"),
        ({"metrics": ["fvd-window"], "window": 5}, "window is 5, but the shortest clips have 4 frames"),
    ],
)
def test_clips_are_not_measured_as_pictures(model, changes, words, tmp_path):
    with pytest.raises(DifflabError, match=words):
        run_study(study(model, **changes), tmp_path)
    assert not (tmp_path / "cells").exists()


def test_pictures_are_not_measured_as_clips(tmp_path):
    for changes, words in (
        ({"metrics": ["fvd"]}, "the metric 'fvd' is one of clips, but shapes-unet2d draws pictures; take fid"),
        ({"metrics": ["fid"], "axes": {"frames": [4]}}, "is a model of pictures, which have no frames"),
    ):
        with pytest.raises(DifflabError, match=words):
            run_study(study("shapes-unet2d", base={"count": 6}, **changes), tmp_path)
    with pytest.raises(ValueError, match="window is missing"):
        study("shapes-unet2d", metrics=["fvd-window"])
    with pytest.raises(ValueError, match="reconstruction is told, but nothing is extended"):
        study("shapes-unet2d", base={"count": 6, "reconstruction": 2})
    with pytest.raises(ValueError, match="extend and overlap belong together"):
        study("shapes-unet2d", axes={"extend": [8]})
    with pytest.raises(DifflabError, match="is a model of pictures, which cannot be extended"):
        run_study(study("shapes-unet2d", metrics=["fid"], base={"count": 6, "extend": 8, "overlap": 2}), tmp_path)


def test_the_clip_features_see_motion():
    """Order, and movement at all: real clips shuffled or frozen are farther from real clips than others are."""
    extractor = open_extractor("shapes-clip")
    real = extractor(ShapesClips(frames=8, seed=1).batch(np.arange(600))[0])
    fresh = ShapesClips(frames=8, seed=2).batch(np.arange(300))[0]
    found = [frechet_features(extractor(clips), real) for clips in (fresh, shuffled(fresh, 0), frozen(fresh))]
    assert found[0] < 0.6 * found[1] < 0.6 * found[2]
    np.testing.assert_array_equal(np.sort(shuffled(fresh[:2], 0), axis=1), np.sort(fresh[:2], axis=1))
    np.testing.assert_array_equal(shuffled(fresh[:6], 0)[4:], shuffled(fresh[4:6], 0, first=4))


def test_ddof_zero_is_the_covariance_over_n():
    x = np.random.default_rng(0).normal(size=(10, 3))
    np.testing.assert_allclose(np.cov(with_ddof(x, 0).T), np.cov(x.T, ddof=0))
    np.testing.assert_allclose(with_ddof(x, 0).mean(0), x.mean(0))


def test_a_folder_named_after_the_study_keeps_its_clips(model, tmp_path: Path):
    run_study(study(model), tmp_path, device="cpu")
    again = run_study(study(model), tmp_path, device="cpu")
    assert len(list((tmp_path / "cells").iterdir())) == 2
    assert [row.scores for row in again.rows] == [row.scores for row in run_study(study(model), tmp_path).rows]


def film_folder(path: Path, count: int = 40, frames: int = 6) -> Path:
    """Films of the world, as .mp4."""
    for i, clip in enumerate(ShapesClips(32, frames, seed=4).batch(np.arange(count))[0]):
        save_samples(path / f"{i:03d}.mp4", clip[None])
    return path


def test_films_are_a_reference(model, tmp_path):
    """A folder of films scores the samples; a broken one is refused, or passed over where that is asked for."""
    films = film_folder(tmp_path / "films")
    asked = {"reference": str(films), "metrics": ["fvd"], "features": "shapes-clip"}
    result = run_study(study(model, **asked), tmp_path / "a", device="cpu")
    assert result.passport["reference"]["n"] == 40
    with pytest.raises(DifflabError, match=r"FVD needs I3D's weights"):
        run_study(study(model, reference=str(films)), tmp_path / "b")
    with pytest.raises(DifflabError, match="the longest has 6 frames"):
        run_study(study(model, **asked, axes={"frames": [4, 7]}), tmp_path / "b")
    (films / "cut.mp4").write_bytes((films / "000.mp4").read_bytes()[:300])
    with pytest.raises(DifflabError, match=r"cut\.mp4: .*--skip-broken"):
        run_study(study(model, **asked), tmp_path / "b")
    with pytest.warns(UserWarning, match="1 broken films and 0 shorter than 4 frames"):
        run_study(study(model, **asked, skip_broken=True), tmp_path / "c", device="cpu")
    assert not (tmp_path / "b").exists()


def test_films_are_taken_at_the_models_pace(model, tmp_path):
    """Real clips are taken from films as the model's own were, unless the study tells another stride."""
    films = str(film_folder(tmp_path / "films", count=12, frames=8))
    own = trained_on(model, tmp_path, {"source": films, "stride": 2})
    asked = {"reference": films, "metrics": ["fvd"], "features": "shapes-clip"}
    as_trained = run_study(study(own, **asked), tmp_path / "a", device="cpu")
    told = run_study(study(own, **asked, stride=1), tmp_path / "b", device="cpu")
    assert "4 frames, stride 2" in str(as_trained.passport["reference"])
    assert "stride" not in str(told.passport["reference"])
    paced, plain = (
        measure.score("fvd", films, films, features="shapes-clip", frames=4, stride=stride) for stride in (2, 1)
    )
    assert "stride 2" in str(paced.passport["reference"])
    assert "stride" not in str(plain.passport["reference"])
    with pytest.raises(DifflabError, match="stride and fps are of clips, but fid is not"):
        measure.score("fid", films, films, stride=2)


def test_films_that_are_no_squares_are_not_brought_to_size_unasked(tmp_path):
    folder = tmp_path / "wide"
    for i in range(2):
        save_samples(folder / f"{i}.mp4", np.zeros((1, 4, 32, 48, 3), np.uint8))
    with pytest.raises(
        DifflabError, match=r"has films of \d+x\d+, but squares of one size are needed; say with --size"
    ):
        measure.score("fvd", folder, folder, features="shapes-clip", frames=4)
    with pytest.raises(DifflabError, match="frames is 0"):
        measure.score("fvd", folder, folder, features="shapes-clip", frames=0)


def test_statistics_are_of_clips_of_one_length(tmp_path):
    extractor = open_extractor("shapes-clip")
    made = Reference("shapes", size=32, window=Window(4))
    assert made.dataset is not None
    moments, _, _ = of_reference.reference_moments(made.dataset, extractor)
    save_statistics(tmp_path / "four.npz", moments, made.passport(extractor))
    stored = Reference(str(tmp_path / "four.npz"), window=Window(4))
    np.testing.assert_array_equal(stored.statistics(extractor).mu, moments.mean)
    for other in (
        replace(stored, window=Window(5)),
        replace(stored, window=Window(4, stride=2)),
        replace(stored, last=3),
        replace(stored, single=True),
    ):
        with pytest.raises(DifflabError, match="holds statistics of clips of 4 frames, but ones of"):
            other.statistics(extractor)


def test_rows_of_different_lengths_are_not_compared(model, tmp_path):
    asked = study(model, metrics=["fvd-window", "fvd"], axes={"frames": [3, 6]}, window=3)
    told = " ".join(findings(run_study(asked, tmp_path, device="cpu")))
    assert "FD (shapes-clip), first 3 frames" in told or "FD, first 3 frames" in told
    assert "best FD is" not in told


def test_clips_are_scored_from_files(tmp_path):
    """Clips as .npz against others, by hand and by `score`; lengths and kinds that do not fit are told."""

    def saved(name, frames, seed=2, n=70):
        path = tmp_path / f"{name}.npz"
        np.savez(path, arr_0=ShapesClips(32, frames, seed=seed).batch(np.arange(n))[0])
        return path

    five, six, other = saved("five", 5), saved("six", 6), saved("other", 5, seed=3)
    found = measure.score("fvd", five, other, features="shapes-clip")
    extractor = open_extractor("shapes-clip")
    by_hand = frechet_features(*(extractor(np.load(path)["arr_0"]) for path in (five, other)))
    assert found.value == pytest.approx(by_hand, rel=1e-4)
    assert (found.metric, found.n) == ("FD (shapes-clip)", 70)
    np.savez(tmp_path / "pictures.npz", arr_0=np.zeros((70, 32, 32, 3), np.uint8))
    for metric, samples, reference, words in (
        ("fvd", five, six, "holds clips of 6 frames, but clips of 5 frames are needed"),
        ("fvd", tmp_path / "pictures.npz", five, "holds pictures, but clips"),
        ("fid", five, other, "holds clips of 5 frames, but pictures are needed"),
    ):
        with pytest.raises(DifflabError, match=words):
            measure.score(metric, samples, reference, features="shapes-image" if metric == "fid" else "shapes-clip")
    with pytest.raises(DifflabError, match="holds clips of 5 frames, but 9 were asked for"):
        measure.score("fvd", five, other, frames=9)
    with pytest.raises(DifflabError, match="the features shapes-image are of pictures, but fvd is not"):
        measure.score("fvd", five, other, features="shapes-image")
