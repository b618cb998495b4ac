from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from difflab.data.shapes import Shapes, recognise
from difflab.errors import DifflabError
from difflab.zoo.autoencoder import AutoencoderCard, AutoencoderConfig, open_autoencoder
from difflab.zoo.checkpoint import write_with_card
from difflab.zoo.codec import LatentCodec, decode, encode


def test_the_shipped_autoencoder_keeps_scenes_what_they_are():
    autoencoder = open_autoencoder("shapes-vae")
    pictures, labels = Shapes(seed=7).batch(np.arange(64))
    posterior = autoencoder.encode(encode(pictures))
    seen = recognise(decode(autoencoder.decode(posterior.sample(torch.randn(posterior.mean.shape)))))
    assert seen.valid.all()
    assert (seen.scenes.labels == labels).all()
    latents = posterior.sample(torch.randn(posterior.mean.shape)) * autoencoder.scale
    assert latents.std().item() == pytest.approx(1.0, abs=0.05)


def test_a_codec_decodes_a_bounded_number_at_a_time_and_as_all_at_once(monkeypatch):
    from difflab.zoo import codec as module

    autoencoder = open_autoencoder("shapes-vae")
    codec = LatentCodec(autoencoder, 2.0, "nearest")
    z = torch.randn(7, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    whole = codec.decode(z)
    monkeypatch.setattr(module, "PIXELS_AT_ONCE", 2 * 32 * 32)
    sizes = []
    monkeypatch.setattr(type(autoencoder), "decode", _spying(type(autoencoder).decode, sizes))
    assert np.abs(codec.decode(z).astype(int) - whole).max() <= 1
    assert sizes == [2, 2, 2, 1]
    torch.testing.assert_close(codec.to_float(z), autoencoder.decode(z / 2.0), rtol=1e-4, atol=1e-5)


def _spying(method, sizes):
    def spy(self, z):
        sizes.append(len(z))
        return method(self, z)

    return spy


def test_one_of_ours_is_read_from_its_file(tmp_path):
    from difflab.nets.autoencoder import KLAutoencoder

    config = AutoencoderConfig(image_size=16, widths=(8,), patch=4)
    network = KLAutoencoder(**config.model_dump())
    path = tmp_path / "mine.safetensors"
    write_with_card(path, AutoencoderCard(name="mine", network=config, scale=0.5), network.state_dict())
    found = open_autoencoder(str(path))
    assert (found.factor, found.channels, found.scale) == (4, 4, 0.5)
    assert found.weights_hash() == open_autoencoder(str(path)).weights_hash()


def test_what_is_no_autoencoder_is_refused_in_a_sentence(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text(json.dumps({"_class_name": "UNet2DModel"}))
    (tmp_path / "text").write_text("no autoencoder")
    for source, words in (
        (str(tmp_path / "empty"), "has no config.json"),
        (str(tmp_path / "other"), "names the class 'UNet2DModel'"),
        (str(tmp_path / "text"), "not an autoencoder of difflab"),
        ("shapes-vea", "no such autoencoder.*shapes-vae"),
    ):
        with pytest.raises(DifflabError, match=words):
            open_autoencoder(source)


def test_the_folder_of_a_pipeline_holds_its_autoencoder(tmp_path):
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, latent_channels=4, sample_size=8)
    theirs.save_pretrained(tmp_path / "vae")
    found = open_autoencoder(str(tmp_path))
    x = torch.randn(1, 3, 8, 8)
    torch.testing.assert_close(found.encode(x).mean, theirs.encode(x).latent_dist.mean.detach())
    assert found.factor == 1


@pytest.mark.parametrize("changes", [{"image_size": 30}, {"widths": ()}, {"widths": (12,)}])
def test_sizes_that_do_not_fit_are_refused(changes):
    with pytest.raises(ValueError, match=r"image_size|widths"):
        AutoencoderConfig(**changes)
