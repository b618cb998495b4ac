from __future__ import annotations

import errno
import json
from itertools import pairwise
from pathlib import Path
from threading import Event

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import save_file

from difflab import files
from difflab.data.shapes import Shapes
from difflab.errors import DifflabError
from difflab.train import loop
from difflab.train.loop import CHECKPOINT, STATE, Progress, Trainer, one_ahead, optimise
from difflab.zoo.safe import read_safetensors
from difflab.zoo.training_state import RECORD

DATA = Shapes(size=16)


def tensors_in(value: object, name: str) -> dict[str, torch.Tensor]:
    """All tensors of a nested state, by the way to them."""
    if isinstance(value, torch.Tensor):
        return {name: value}
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
    return {key: tensor for k, v in items for key, tensor in tensors_in(v, f"{name}/{k}").items()}


def state_of(trainer: Trainer) -> dict[str, torch.Tensor]:
    """Everything that training changes, by name."""
    return {
        **trainer.bare.state_dict(),
        **tensors_in(trainer.optimizer.state_dict(), "optimizer"),
        **tensors_in(trainer.ema.state_dict(), "average"),
    }


def advance(trainer: Trainer, steps: int) -> list[Progress]:
    run = trainer.run()
    return [next(run) for _ in range(steps)]


@pytest.mark.parametrize(
    "optim",
    [
        {"lr": 1e-3, "warmup": 2, "decay": 0.5},
        {"name": "adamw", "weight_decay": 0.1},
        {"name": "muon", "lr": 0.02, "adam_lr": 1e-3, "warmup": 2},
        {"name": "rmsprop"},
        {"name": "sgd"},
    ],
)
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(recipe, tmp_path, optim):
    recipe = recipe(optim=optim)
    whole = Trainer(recipe, DATA, tmp_path / "whole")
    losses = [p.loss for p in whole.run()]
    first = Trainer(recipe, DATA, tmp_path)
    early = [p.loss for p in advance(first, 3)]
    first.save()
    torch.manual_seed(999)  # whatever else happened in between
    second = Trainer(recipe, DATA, tmp_path)
    second.resume()
    late = [p.loss for p in second.run()]
    assert torch.equal(torch.stack(early + late), torch.stack(losses))
    expected, found = state_of(whole), state_of(second)
    assert found.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []


def test_the_seed_decides_the_whole_run(recipe, tmp_path):
    def end(seed: int) -> torch.Tensor:
        trainer = Trainer(recipe(seed=seed), DATA, tmp_path)
        advance(trainer, 2)
        return trainer.bare.state_dict()["conv_out.weight"]

    assert torch.equal(end(1), end(1))
    assert not torch.equal(end(1), end(2))


def test_progress_tells_steps_and_rates(recipe, tmp_path):
    recipe = recipe()
    found = list(Trainer(recipe, DATA, tmp_path).run())
    assert [p.step for p in found] == [1, 2, 3, 4, 5, 6]
    assert [p.lr for p in found] == [recipe.optim.lr_at(s, 6) for s in range(6)]
    assert all(p.grad_norm > 0 for p in found)
    assert all(b.seconds > a.seconds for a, b in pairwise(found))


def test_the_rate_of_a_step_scales_its_update(recipe, tmp_path):
    """Plain SGD: the first update is -lr times the gradient, so half the rate moves half as far."""

    def moved(lr: float) -> torch.Tensor:
        trainer = Trainer(recipe(optim={"name": "sgd", "lr": lr, "grad_clip": None}), DATA, tmp_path)
        before = trainer.bare.state_dict()["conv_out.bias"].clone()
        advance(trainer, 1)
        return trainer.bare.state_dict()["conv_out.bias"] - before

    torch.testing.assert_close(moved(0.02), 2 * moved(0.01), rtol=1e-4, atol=1e-6)


def test_averaged_weights_lag_behind_the_live_ones(recipe, tmp_path):
    trainer = Trainer(recipe(ema_rate=0.75), DATA, tmp_path)
    name = "conv_out.weight"
    before = trainer.bare.state_dict()[name].clone()
    advance(trainer, 1)
    expected = 0.75 * before + 0.25 * trainer.bare.state_dict()[name]
    torch.testing.assert_close(trainer.averaged_state()[name], expected, rtol=0, atol=1e-7)


def test_a_tiny_network_learns_its_few_pictures(recipe, tmp_path):
    from difflab.data.dataset import Item

    class Four:
        description, classes = "four scenes", None
        pictures = DATA.batch(range(4))[0]

        def __len__(self) -> int:
            return 4

        def __getitem__(self, index: int) -> Item:
            return Item(self.pictures[index])

    network = {**recipe().network.model_dump(), "dropout": 0.0}
    recipe = recipe(
        steps=400,
        batch=16,
        network=network,
        prediction="x0",
        optim={"lr": 5e-3},
        data={"source": "shapes", "size": 16, "flip": False},
    )
    losses = torch.stack([p.loss for p in Trainer(recipe, Four(), tmp_path).run()])
    assert losses[-20:].mean() < 0.5 * losses[:5].mean()


# --- what a checkpoint refuses


def saved(recipe, folder: Path) -> Path:
    """The folder of the state after one step."""
    trainer = Trainer(recipe, DATA, folder)
    advance(trainer, 1)
    trainer.save()
    return folder / STATE


def shard(state: Path) -> Path:
    """The only file of tensors in a folder of one process's state."""
    (path,) = state.glob("*/*.safetensors")
    return path


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"seed": 4}, "seed"),
        ({"batch": 8}, "batch"),
        ({"optim": {"lr": 2e-3}}, "optim"),
        ({"ema_rate": 0.5}, "ema_rate"),
    ],
)
def test_resuming_with_another_recipe_is_refused_naming_the_field(recipe, tmp_path, changes, field):
    saved(recipe(), tmp_path)
    with pytest.raises(DifflabError, match=f"began with another {field}"):
        Trainer(recipe(**changes), DATA, tmp_path).resume()


def test_how_often_it_logs_and_saves_may_change(recipe, tmp_path):
    saved(recipe(), tmp_path)
    trainer = Trainer(recipe(log_every=7, save_every=7, sample_every=7), DATA, tmp_path)
    trainer.resume()
    assert trainer.step == 1


def test_a_missing_checkpoint_is_named(recipe, tmp_path):
    with pytest.raises(DifflabError, match=r"state\.json: there is no such file"):
        Trainer(recipe(), DATA, tmp_path).resume()


@pytest.mark.parametrize("state", [[1, 2], {"model": 1}, {"recipe": {}}, {"recipe": "no JSON"}])
def test_the_state_of_another_program_is_refused(recipe, tmp_path, state):
    files.write_json(tmp_path / CHECKPOINT, state)
    with pytest.raises(DifflabError, match="not the state of a training by difflab"):
        Trainer(recipe(), DATA, tmp_path).resume()


def test_a_cut_off_checkpoint_is_refused(recipe, tmp_path):
    state = saved(recipe(), tmp_path)
    path = shard(state)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(
        DifflabError, match=rf"not a whole training checkpoint .0000001/{path.name} is missing, cut off"
    ):
        Trainer(recipe(), DATA, tmp_path).resume()
    (state / RECORD).write_text("{")
    with pytest.raises(DifflabError, match="not a whole training checkpoint"):
        Trainer(recipe(), DATA, tmp_path).resume()


def test_what_systems_leave_beside_tensors_does_not_matter_but_other_tensors_do(recipe, tmp_path):
    path = shard(saved(recipe(), tmp_path))
    for name in (".DS_Store", ".nfs0001"):
        (path.parent / name).write_text("x")
    Trainer(recipe(), DATA, tmp_path).resume()
    path.with_name("other.safetensors").write_bytes(path.read_bytes())
    with pytest.raises(DifflabError, match=r"0000001/other\.safetensors is missing, cut off or of another"):
        Trainer(recipe(), DATA, tmp_path).resume()


def test_a_checkpoint_is_data_alone_and_only_the_last_one_stays(recipe, tmp_path):
    trainer = Trainer(recipe(), DATA, tmp_path)
    for _ in trainer.run():
        trainer.save()
    found = sorted(path.relative_to(tmp_path / STATE) for path in (tmp_path / STATE).rglob("*"))
    assert [path.parts[0] for path in found] == ["0000006", "0000006", RECORD]
    state, _ = read_safetensors(shard(tmp_path / STATE))
    assert torch.equal(state["network.conv_out.weight"], trainer.bare.state_dict()["conv_out.weight"])


# --- one optimiser step


@pytest.mark.parametrize(("clip", "length"), [(1.0, 1.0), (None, 5.0), (100.0, 5.0)])
def test_the_gradient_is_clipped_by_its_global_norm(clip, length):
    layer = torch.nn.Linear(2, 1, bias=False)
    before = layer.weight.detach().clone()
    loss = layer(torch.tensor([3.0, 4.0])).sum()  # the gradient is (3, 4)
    _, norm = optimise(layer, [loss], torch.optim.SGD(layer.parameters(), lr=1.0), clip)
    assert norm.item() == pytest.approx(5.0)
    torch.testing.assert_close(before - layer.weight, torch.tensor([[0.6, 0.8]]) * length, rtol=1e-5, atol=1e-5)


def test_gradients_do_not_pile_up_between_steps():
    layer = torch.nn.Linear(1, 1, bias=False)
    sgd = torch.optim.SGD(layer.parameters(), lr=0.0)
    assert [optimise(layer, [layer(torch.ones(1)).sum()], sgd, None)[1].item() for _ in range(2)] == [1.0, 1.0]


def test_a_training_that_diverges_keeps_its_last_sound_state(recipe, tmp_path):
    trainer = Trainer(recipe(), DATA, tmp_path)
    trainer.save()
    before = {path: path.read_bytes() for path in (tmp_path / CHECKPOINT, shard(tmp_path / STATE))}
    next(trainer.bare.parameters()).data.fill_(float("nan"))
    with pytest.raises(DifflabError, match=r"diverged by step 0.*lower optim\.lr"):
        trainer.save()
    assert all(path.read_bytes() == content for path, content in before.items())


@pytest.mark.parametrize("stage", ["tensors", "record"])
def test_a_save_that_fails_leaves_the_state_before(recipe, tmp_path, monkeypatch, stage):
    trainer = Trainer(recipe(), DATA, tmp_path)
    steps = trainer.run()
    next(steps)
    trainer.save()
    next(steps)

    def fail(*_args, **_options) -> None:
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patch:
        patch.setattr("safetensors.torch.save" if stage == "tensors" else "difflab.files.write_json", fail)
        with pytest.raises(DifflabError if stage == "tensors" else OSError, match="full"):
            trainer.save()
    again = Trainer(recipe(), DATA, tmp_path)
    again.resume()
    assert again.step == 1
    trainer.save()
    assert [path.name for path in sorted((tmp_path / STATE).iterdir())] == ["0000002", RECORD]


@pytest.fixture
def saved_before(recipe, tmp_path) -> Trainer:
    """A trainer that has saved its first step and done another."""
    trainer = Trainer(recipe(), DATA, tmp_path)
    steps = trainer.run()
    next(steps)
    trainer.save()
    next(steps)
    return trainer


def test_a_disk_that_does_not_answer_for_a_moment_costs_no_state(recipe, tmp_path, monkeypatch, saved_before):
    read, asked = Path.read_bytes, []

    def away(path: Path) -> bytes:
        asked.append(path)
        if len(asked) == 1:
            raise OSError(errno.EIO, "away")
        return read(path)

    def full(*_args, **_options) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(Path, "read_bytes", away)
    monkeypatch.setattr("safetensors.torch.save", full)
    with pytest.warns(UserWarning, match="refuses this for now"), pytest.raises(DifflabError, match="disk is full"):
        saved_before.save()
    assert asked[0] == tmp_path / CHECKPOINT
    again = Trainer(recipe(), DATA, tmp_path)
    again.resume()
    assert again.step == 1


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES])
def test_a_record_that_cannot_be_read_stops_a_save_and_nothing_is_removed(
    recipe, tmp_path, monkeypatch, saved_before, number
):
    def refuse(_path: Path) -> None:
        raise OSError(number, "no")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", refuse)
        patch.setattr("difflab.files.PATIENCE", 0.0)
        with pytest.raises(DifflabError):
            saved_before.save()
    Trainer(recipe(), DATA, tmp_path).resume()


def test_tensors_that_the_record_names_are_not_removed_because_they_are_not_whole(tmp_path, saved_before, monkeypatch):
    """The sizes that a disk on the network tells may be old ones."""
    path = shard(tmp_path / STATE)
    path.write_bytes(path.read_bytes() + b"x")

    def full(*_args, **_options) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr("safetensors.torch.save", full)
    with pytest.raises(DifflabError, match="disk is full"):
        saved_before.save()
    assert path.exists()


def test_old_tensors_that_cannot_be_removed_do_not_stop_a_training(recipe, tmp_path, monkeypatch, saved_before):
    def refuse(path: str, *_args, **_options) -> None:
        raise OSError(errno.ENOTEMPTY, "not empty", path)

    with monkeypatch.context() as patch:
        patch.setattr("os.rmdir", refuse)
        saved_before.save()
    again = Trainer(recipe(), DATA, tmp_path)
    again.resume()
    assert again.step == 2


def test_a_state_of_the_same_step_stays_until_the_new_one_is_whole(recipe, tmp_path, monkeypatch):
    saved(recipe(), tmp_path)
    again = Trainer(recipe(), DATA, tmp_path)
    advance(again, 1)

    def full(*_args, **_options) -> None:
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patch:
        patch.setattr("safetensors.torch.save", full)
        with pytest.raises(DifflabError, match="disk is full"):
            again.save()
    Trainer(recipe(), DATA, tmp_path).resume()
    again.save()
    assert [path.name for path in sorted((tmp_path / STATE).iterdir())] == ["0000001-1", RECORD]
    Trainer(recipe(), DATA, tmp_path).resume()


def changed_tensors(path: Path, change) -> None:
    """Write a file of tensors again with other tensors, under the same header of parts."""
    state, metadata = read_safetensors(path)
    save_file(change(state), path, metadata)
    record = json.loads((path.parents[1] / RECORD).read_text())
    record["files"] = {path.name: path.stat().st_size}
    files.write_json(path.parents[1] / RECORD, record)


@pytest.mark.parametrize(
    "change",
    [
        lambda state: {name: value for name, value in state.items() if not name.startswith("network.conv_in")},
        lambda state: {name: value for name, value in state.items() if not name.startswith("ema.")},
        lambda state: {name: value[:1] if value.ndim else value for name, value in state.items()},
    ],
)
def test_tensors_of_another_network_are_refused(recipe, tmp_path, change):
    changed_tensors(shard(saved(recipe(), tmp_path)), change)
    with pytest.raises(DifflabError, match="its weights or counters are not those of its recipe"):
        Trainer(recipe(), DATA, tmp_path).resume()


def test_a_file_that_is_none_of_tensors_is_refused(recipe, tmp_path):
    path = shard(saved(recipe(), tmp_path))
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(DifflabError, match="its weights or counters are not those of its recipe"):
        Trainer(recipe(), DATA, tmp_path).resume()


@pytest.mark.parametrize(
    ("field", "value"), [("step", "x"), ("seconds", None), ("tensors", "../elsewhere"), ("tensors", "..")]
)
def test_counters_that_are_none_are_refused(recipe, tmp_path, field, value):
    state = saved(recipe(), tmp_path)
    files.write_json(state / RECORD, {**json.loads((state / RECORD).read_text()), field: value})
    with pytest.raises(DifflabError, match="not the state of a training by difflab"):
        Trainer(recipe(), DATA, tmp_path).resume()


class Elsewhere(Accelerator):
    """An accelerator whose device is none of the processor's: tensors there have no numbers, but may not be mixed."""

    @property
    def device(self) -> torch.device:
        return torch.device("meta")


def test_everything_a_step_needs_lies_on_the_device_of_the_network(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "Accelerator", Elsewhere)
    trainer = Trainer(recipe(optim={"name": "sgd", "grad_clip": 1.0}), DATA, tmp_path)
    assert len(advance(trainer, 2)) == 2
    assert all(value.is_meta for value in [*trainer.bare.parameters(), *trainer.ema.state_dict().values()])


def test_the_next_is_made_while_the_caller_works_on_one():
    made = [Event() for _ in range(4)]

    def make(item: int) -> int:
        made[item].set()
        return 10 * item

    for item, answer in enumerate(one_ahead(make, range(4))):
        assert answer == 10 * item
        assert all(event.wait(5) for event in made[: item + 2])


def test_what_fails_ahead_is_told_where_it_is_asked_for():
    def make(item: int) -> int:
        if item == 1:
            raise DifflabError("cannot be decoded")
        return item

    answers = one_ahead(make, range(3))
    assert next(answers) == 0
    with pytest.raises(DifflabError, match="cannot be decoded"):
        next(answers)
