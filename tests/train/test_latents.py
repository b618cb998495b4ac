from __future__ import annotations

import numpy as np
import pytest
import torch

from difflab.data.latents import Latents
from difflab.data.shapes import Shapes
from difflab.data.sources import open_data
from difflab.errors import DifflabError
from difflab.train import latents as module
from difflab.train.config import DiffusionRecipe
from difflab.train.feed import Feed
from difflab.train.latents import store_latents
from difflab.train.run import train
from difflab.zoo.autoencoder import open_autoencoder
from difflab.zoo.codec import encode


@pytest.fixture
def pictures(tmp_path):
    x, labels = Shapes().batch(np.arange(10))
    np.savez(tmp_path / "pictures.npz", x, labels)
    return str(tmp_path / "pictures.npz")


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 4)


def recipe(source: str, **changes) -> DiffusionRecipe:
    network = {"input_size": 8, "hidden_size": 16, "depth": 1, "num_heads": 2, "num_classes": 20}
    fields = {
        "name": "l", "family": "dit", "network": network, "autoencoder": "shapes-vae", "variance": "learned",
        "data": {"source": source, "split": None}, "steps": 3, "batch": 4,
    }  # fmt: skip
    return DiffusionRecipe.model_validate({**fields, **changes})


def test_moments_are_the_encoders_as_it_is_and_mirrored(pictures, tmp_path):
    out = tmp_path / "latents"
    assert store_latents(pictures, "shapes-vae", out, batch=3) == 10
    found, x = Latents(out), Shapes().batch(np.arange(10))[0]
    for mirrored, shown in ((False, x), (True, x[:, :, ::-1])):
        posterior = open_autoencoder("shapes-vae").encode(encode(np.ascontiguousarray(shown)))
        moments, labels = found.batch(np.arange(10), np.full(10, mirrored))
        expected = torch.cat([posterior.mean, posterior.logvar], 1).numpy()
        np.testing.assert_allclose(moments, expected, rtol=2e-3, atol=2e-3)  # stored in half precision
        assert labels.tolist() == Shapes().batch(np.arange(10))[1].tolist()
    assert sorted(p.name for p in out.iterdir()) == [
        "labels.npy",
        "latents.json",
        *(f"moments-0000{i}.npy" for i in range(3)),
    ]


def test_after_a_kill_what_is_there_is_kept(pictures, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    store_latents(pictures, "shapes-vae", whole)

    def stop(done: int, of: int) -> None:
        if done >= 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store_latents(pictures, "shapes-vae", cut, watch=stop)
    with pytest.raises(DifflabError, match="not complete"):
        Latents(cut)
    first = (cut / "moments-00000.npy").stat().st_mtime_ns
    store_latents(pictures, "shapes-vae", cut)
    assert (cut / "moments-00000.npy").stat().st_mtime_ns == first
    for path in whole.iterdir():
        assert (cut / path.name).read_bytes() == path.read_bytes(), path.name


def test_a_training_draws_fresh_latents_from_them(pictures, tmp_path):
    out = tmp_path / "latents"
    store_latents(pictures, "shapes-vae", out)
    feed = Feed(Latents(out), 4, seed=0, flip=True)
    one, again = feed.at(0), Feed(Latents(out), 4, seed=0, flip=True).at(0)
    assert one.moments.shape == (4, 8, 8, 8)
    assert np.array_equal(one.moments, again.moments)
    assert train(recipe(str(out)), tmp_path / "run").exists()


def test_other_pictures_or_autoencoders_are_told(pictures, tmp_path):
    out = tmp_path / "latents"
    store_latents(pictures, "shapes-vae", out)
    with pytest.raises(DifflabError, match="complete already"):
        store_latents(pictures, "shapes-vae", out)
    with pytest.raises(DifflabError, match="holds latents, which are for training alone"):
        open_data(out)
    pixels = {"input_size": 32, "in_channels": 3, "hidden_size": 16, "depth": 1, "num_heads": 2, "num_classes": 20}
    with pytest.raises(DifflabError, match="autoencoder must name what made them"):
        train(recipe(str(out), autoencoder=None, network=pixels), tmp_path / "a")
    with pytest.raises(DifflabError, match=r"pictures of 32 pixels, but data\.size is 64"):
        train(recipe(str(out), data={"source": str(out), "split": None, "size": 64}), tmp_path / "b")


def test_pictures_that_do_not_fit_are_refused(tmp_path):
    np.savez(tmp_path / "odd.npz", np.zeros((2, 30, 30, 3), np.uint8))
    with pytest.raises(
        DifflabError, match=r"30x30, but shapes-vae takes squares whose side is a multiple of 4.*--size"
    ):
        store_latents(str(tmp_path / "odd.npz"), "shapes-vae", tmp_path / "latents")
