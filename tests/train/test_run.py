from __future__ import annotations

import signal
import warnings

import numpy as np
import pytest
import torch

import difflab
from difflab.errors import DifflabError
from difflab.train.config import FeaturesRecipe
from difflab.train.loop import STATE, optimise
from difflab.train.run import train
from difflab.zoo.training_state import read_record, read_whole


class Stop(Exception):
    """Stands for a crash."""


def stop_at(step: int, error: type[BaseException]):
    def watch(progress) -> None:
        if progress.step == step:
            raise error

    return watch


def test_a_finished_training_loads_and_says_how_it_was_made(recipe, tmp_path):
    recipe = recipe(prediction="v", variance="large")
    path = train(recipe, tmp_path)
    model = difflab.load(path)
    assert path == tmp_path / "tiny.safetensors"
    assert (model.card.name, model.card.prediction, model.card.variance, model.card.weights) == (
        "tiny",
        "v",
        "large",
        "ema",
    )
    assert model.card.network == recipe.network
    assert model.card.schedule == recipe.schedule
    assert model.card.training["recipe"] == recipe.model_dump(mode="json")
    assert (model.card.training["steps"], model.card.training["images"]) == (6, 24)
    averages = read_whole(tmp_path / STATE / "0000006", "ema.")
    assert all(torch.equal(value, averages[name]) for name, value in model.network.state_dict().items())


def test_the_card_of_a_tuned_model_tells_how_the_one_before_was_made(recipe, tmp_path):
    first = train(recipe(steps=2), tmp_path / "first")
    second = train(recipe(steps=3, start=str(first)), tmp_path / "second")
    third = train(recipe(steps=1, start=str(second)), tmp_path / "third")
    assert "before" not in difflab.load(first).card.training
    before = difflab.load(third).card.training["before"]
    assert (before["steps"], before["before"]["steps"]) == (3, 2)


def test_pictures_are_drawn_and_numbers_logged_on_the_way(recipe, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(recipe(steps=4, log_every=2, sample_every=3), tmp_path)
    assert [p.name for p in (tmp_path / "samples").iterdir()] == ["0000003.png"]
    log = EventAccumulator(str(tmp_path / "logs"))
    log.Reload()
    assert [e.step for e in log.Scalars("loss")] == [2, 4]
    assert {"gradient norm", "learning rate", "samples per second"} <= set(log.Tags()["scalars"])


def test_watching_does_not_change_the_numbers(recipe, tmp_path):
    """Sample grids draw from streams of their own."""
    plain = train(recipe(), tmp_path / "plain")
    watched = train(recipe(sample_every=2, log_every=1), tmp_path / "watched")
    assert difflab.load(plain).weights_hash == difflab.load(watched).weights_hash


def test_ctrl_c_within_a_step_lets_it_end_and_continues_exactly(recipe, tmp_path, monkeypatch):
    whole = train(recipe(), tmp_path / "whole")
    calls = []

    def interrupted(*args, **options):
        calls.append(args)
        if len(calls) == 2:
            signal.raise_signal(signal.SIGINT)
        return optimise(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr("difflab.train.loop.optimise", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(recipe(), tmp_path / "cut")
    assert read_record(tmp_path / "cut" / STATE)["step"] == 2
    continued = train(recipe(), tmp_path / "cut", resume=True)
    assert difflab.load(continued).weights_hash == difflab.load(whole).weights_hash


def test_a_second_ctrl_c_does_not_wait_and_spoils_nothing(recipe, tmp_path, monkeypatch):
    """Inside a step weights and counter do not agree, so nothing is saved then: the save before it counts."""
    whole = train(recipe(), tmp_path / "whole")
    calls = []

    def interrupted(*args, **options):
        norm = optimise(*args, **options)
        calls.append(args)
        if len(calls) == 4:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
        return norm

    with monkeypatch.context() as patch:
        patch.setattr("difflab.train.loop.optimise", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(recipe(save_every=2), tmp_path / "cut")
    assert read_record(tmp_path / "cut" / STATE)["step"] == 2
    continued = train(recipe(), tmp_path / "cut", resume=True)
    assert difflab.load(continued).weights_hash == difflab.load(whole).weights_hash


def test_ctrl_c_is_pythons_own_again_afterwards(recipe, tmp_path):
    before = signal.getsignal(signal.SIGINT)
    train(recipe(), tmp_path)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_crashed_training_continues_from_its_last_save(recipe, tmp_path):
    whole = train(recipe(), tmp_path / "whole")
    with pytest.raises(Stop):
        train(recipe(save_every=2), tmp_path / "cut", watch=stop_at(5, Stop))
    assert read_record(tmp_path / "cut" / STATE)["step"] == 4
    averages = read_whole(tmp_path / "cut" / STATE / "0000004", "ema.")
    for weights in ("ema", "raw"):
        found = difflab.load(tmp_path / "cut" / STATE, weights=weights)
        assert (found.card.weights, found.card.training["step"]) == (weights, 4)
        same = [torch.equal(value, averages[name]) for name, value in found.network.state_dict().items()]
        assert all(same) if weights == "ema" else not all(same)
    continued = train(recipe(), tmp_path / "cut", resume=True)
    assert difflab.load(continued).weights_hash == difflab.load(whole).weights_hash


def test_resuming_a_finished_training_gives_the_same_model(recipe, tmp_path):
    path = train(recipe(), tmp_path)
    before = difflab.load(path).weights_hash
    assert difflab.load(train(recipe(), tmp_path, resume=True)).weights_hash == before


def test_resuming_begins_where_nothing_is_there_so_that_one_command_survives_a_requeue(recipe, tmp_path):
    whole = difflab.load(train(recipe(), tmp_path / "whole")).weights_hash
    (tmp_path / "cut" / STATE / "0000002").mkdir(parents=True)  # of one that was killed in its first save
    with pytest.raises(Stop):
        train(recipe(save_every=2), tmp_path / "cut", resume=True, watch=stop_at(3, Stop))
    assert difflab.load(train(recipe(), tmp_path / "cut", resume=True)).weights_hash == whole


def test_a_training_that_is_there_is_not_overwritten(recipe, tmp_path):
    train(recipe(), tmp_path)
    with pytest.raises(DifflabError, match="a training is here already; continue it with --resume"):
        train(recipe(), tmp_path)


def test_a_features_training_ends_in_a_file_that_opens(tmp_path):
    from difflab.score.features import load_small_features

    fields = {
        "name": "eyes",
        "data": {"source": "shapes", "flip": False},
        "heads": {"count": 2},
        "steps": 2,
        "batch": 4,
        "width": 8,
        "dim": 8,
    }
    path = train(FeaturesRecipe.model_validate(fields), tmp_path)
    assert path == tmp_path / "eyes.safetensors"
    name, network = load_small_features(path)
    assert (name, network.config.heads) == ("eyes", {"count": 2})


@pytest.mark.parametrize(
    ("source", "heads", "words"),
    [
        ("shapes", {"main color": 5}, r"no attribute 'main color'. Did you mean 'main colour'"),
        ("shapes", {"main colour": 6}, r"'main colour' has 6 classes, but the data have 5"),
        ("plain.npz", {"class": 2}, "has no labels to learn"),
        ("labelled.npz", {"class": 2}, r"'class' has 2 classes, but the data have 4"),
    ],
)
def test_heads_that_the_data_cannot_teach_are_refused_before_anything_is_written(tmp_path, source, heads, words):
    pictures = np.zeros((4, 32, 32, 3), np.uint8)
    np.savez(tmp_path / "plain.npz", pictures)
    np.savez(tmp_path / "labelled.npz", pictures, np.arange(4))
    data = {"source": source if source == "shapes" else str(tmp_path / source), "flip": False, "split": None}
    fields = {"name": "eyes", "data": data, "heads": heads, "steps": 1}
    with pytest.raises(DifflabError, match=words):
        train(FeaturesRecipe.model_validate(fields), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_training_that_diverged_gives_no_model(recipe, tmp_path):
    broken = recipe(optim={"lr": 1e30, "grad_clip": None})
    with pytest.raises(DifflabError, match=r"diverged.*lower optim\.lr"):
        train(broken, tmp_path / "run")
    assert not list((tmp_path / "run").glob("*.safetensors"))


def test_an_average_that_keeps_initial_weights_is_told_of(recipe, tmp_path):
    """0.9 ** 6 = 53 %, and 0.464 ** 6 = 1 %."""
    with pytest.warns(UserWarning, match=r"leaves 53% of the initial weights.*an ema_rate of 0\.4641 at most"):
        train(recipe(ema_rate=0.9), tmp_path / "much")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(recipe(ema_rate=0.4641), tmp_path / "little")
