from __future__ import annotations

from pathlib import Path

import pytest
import torch

import difflab
from difflab.errors import DifflabError
from difflab.zoo.card import Card
from difflab.zoo.checkpoint import save_checkpoint
from difflab.zoo.convert import convert
from difflab.zoo.families import FAMILIES, ScheduleConfig, UNet3DConfig
from difflab.zoo.vdm_files import to_reference

SIZE = {"image_size": 16, "num_frames": 4}


@pytest.fixture(params=[{}, {"cond_dim": 5, "norm": "group"}, {"use_sparse_linear_attn": False, "out_dim": 6}])
def config(request) -> UNet3DConfig:
    return UNet3DConfig(**SIZE, dim=8, dim_mults=(1, 2), attn_heads=2, attn_dim_head=8, **request.param)


def saved(folder: Path, config: UNet3DConfig, **changes) -> Path:
    torch.manual_seed(0)
    schedule = ScheduleConfig(name="cosine-9999", timesteps=20)
    card = Card(name="tiny", family="unet3d", network=config, schedule=schedule, rounding="floor")
    save_checkpoint(folder / "tiny.safetensors", card, FAMILIES["unet3d"].build(config).state_dict())
    return folder / "tiny.safetensors"


def test_there_and_back_keeps_every_weight_and_the_configuration(config, tmp_path):
    ours = difflab.load(saved(tmp_path, config))
    convert(tmp_path / "tiny.safetensors", tmp_path / "model-7.pt", "official")
    back = difflab.load(tmp_path / "model-7.pt", config=SIZE)
    assert back.card.network == config
    assert back.schedule.timesteps == 20
    assert back.weights_hash == ours.weights_hash
    assert "does not tell" not in back.card.source
    assert "does not tell image_size and num_frames" in difflab.load(tmp_path / "model-7.pt").card.source


def test_the_file_is_as_the_reference_loads_it(config, tmp_path):
    """Two sets of weights with 12 tables each, rotary frequencies at every temporal attention, kernels with a frame."""
    model = difflab.load(saved(tmp_path, config))
    file = to_reference(model.network.state_dict(), config, model.card.schedule)
    assert list(file) == ["step", "model", "ema", "scaler"]
    names = file["model"].keys()
    assert names == file["ema"].keys()
    assert sum(not name.startswith("denoise_fn.") for name in names) == 12
    assert sum(name.endswith("rotary_emb.freqs") for name in names) == 1 + 2 + 1 + 2
    assert file["ema"]["denoise_fn.init_conv.weight"].shape == (8, 3, 1, 7, 7)
    assert file["ema"]["denoise_fn.downs.0.3.fn.norm.gamma"].shape == (1, 8, 1, 1, 1)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda s: s.pop("denoise_fn.downs.0.0.block1.proj.weight"), "downs.0.block1.block1.proj.weight .* is missing"),
        (lambda s: s.pop("denoise_fn.init_conv.weight"), "the weight init_conv.weight is missing"),
        (lambda s: s.update({"denoise_fn.extra": torch.zeros(1)}), "do not belong.*extra"),
        (lambda s: s.update({"denoise_fn.init_conv.weight": torch.zeros(9, 3, 1, 7, 7)}), "9 wide, the others 8"),
        (lambda s: s.update({"denoise_fn.time_mlp.1.bias": torch.zeros(3)}), "time_mlp.0.bias has shape"),
        (lambda s: s.update({"betas": s["betas"][:10]}), "its table of betas, 10 of them, is not the cosine curve"),
        (lambda s: s.update({"betas": torch.linspace(1e-4, 0.02, 20)}), "20 of them, is not the cosine curve"),
    ],
)
def test_damaged_files_are_told_in_one_sentence(spoil, words, tmp_path):
    config = UNet3DConfig(**SIZE, dim=8, dim_mults=(1, 2), attn_heads=2, attn_dim_head=8)
    model = difflab.load(saved(tmp_path, config))
    file = to_reference(model.network.state_dict(), config, model.card.schedule)
    spoil(file["ema"])
    torch.save(file, tmp_path / "model-1.pt")
    with pytest.raises(DifflabError, match=words):
        difflab.load(tmp_path / "model-1.pt")


def test_fields_that_are_told_wrong_are_told_in_one_sentence(tmp_path):
    config = UNet3DConfig(**SIZE, dim=8, dim_mults=(1, 2), attn_heads=2, attn_dim_head=8)
    path = convert(saved(tmp_path, config), tmp_path / "model-1.pt", "official")
    for told, words in (({"image_size": 31}, "image_size is 31"), ({"num_frames": 0}, "'num_frames' is 0")):
        with pytest.raises(DifflabError, match=words):
            difflab.load(path, config=told)


def test_what_the_reference_does_not_know_is_not_written(tmp_path):
    ours = UNet3DConfig(**SIZE, dim=8, dim_mults=(1, 2), attn_heads=2, attn_dim_head=8, strict_mask=True)
    with pytest.raises(DifflabError, match="strict_mask is True, which the reference does not know"):
        convert(saved(tmp_path, ours), tmp_path / "model-1.pt", "official")
    with pytest.raises(DifflabError, match="diffusers has no such network"):
        convert(tmp_path / "tiny.safetensors", tmp_path / "folder", "diffusers")


def test_samples_are_clips_and_told_vectors_are_needed(tmp_path):
    config = UNet3DConfig(**SIZE, dim=8, dim_mults=(1, 2), attn_heads=2, attn_dim_head=8, cond_dim=5)
    model = difflab.load(saved(tmp_path, config))
    clips = difflab.sample(model, n=3, steps=2, conditions=torch.randn(3, 5), guidance=2.0)
    assert (clips.shape, clips.dtype) == ((3, 4, 16, 16, 3), "uint8")
    with pytest.raises(DifflabError, match="is told a vector of 5 numbers a sample; give conditions"):
        difflab.sample(model, n=3, steps=2)
    with pytest.raises(DifflabError, match=r"conditions have shape \(2, 5\), but 3 samples"):
        difflab.sample(model, n=3, steps=2, conditions=torch.randn(2, 5))
