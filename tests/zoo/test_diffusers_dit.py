from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.zoo.dits import tiny_dit

import difflab
from difflab.errors import DifflabError
from difflab.zoo.diffusers_dit import write_diffusers_dit

diffusers = pytest.importorskip("diffusers")


@pytest.fixture
def model():
    return tiny_dit()


@pytest.fixture
def folder(tmp_path, model):
    write_diffusers_dit(tmp_path / "dit", model.card, model.network.state_dict())
    return tmp_path / "dit"


X = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
T, Y = torch.tensor([1, 400, 900]), torch.tensor([0, 3, 5])


@pytest.mark.parametrize("part", ["", "transformer"])
def test_what_is_written_comes_back_bit_for_bit_from_the_pipeline_or_its_transformer(folder, model, part):
    found = difflab.load(folder / part)
    assert found.card.network == model.card.network
    assert torch.equal(found.network(X, T, Y), model.network(X, T, Y))


def test_diffusers_reads_it_and_answers_as_our_copy_of_its_numerics(folder):
    theirs = diffusers.DiTTransformer2DModel.from_pretrained(folder, subfolder="transformer").eval()
    ours = difflab.load(folder, config={"numerics": "diffusers"})
    with torch.no_grad():
        expected = theirs(X, timestep=T, class_labels=Y).sample
    # config.json says norm_eps 1e-6; ours has 1e-5 before the MLP, as published folders that leave it out
    torch.testing.assert_close(ours.network(X, T, Y), expected, rtol=1e-3, atol=1e-3)
    official = difflab.load(folder).network(X, T, Y)
    assert (official - expected).abs().max() > 10 * (ours.network(X, T, Y) - expected).abs().max()


def test_the_older_class_name_is_accepted_and_another_one_refused(folder, model):
    path = folder / "transformer" / "config.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps(values | {"_class_name": "Transformer2DModel"}))
    assert torch.equal(difflab.load(folder).network(X, T, Y), model.network(X, T, Y))
    path.write_text(json.dumps(values | {"_class_name": "PixArtTransformer2DModel"}))
    with pytest.raises(DifflabError, match="_class_name is PixArtTransformer2DModel"):
        difflab.load(folder)


def test_embedders_that_differ_between_blocks_are_refused(folder):
    path = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    state = load_file(path)
    name = "transformer_blocks.1.norm1.emb.class_embedder.embedding_table.weight"
    save_file({**state, name: state[name] + 1}, path)
    with pytest.raises(DifflabError, match=r"embedding_table\.weight differs from the same embedder of another block"):
        difflab.load(folder)


@pytest.mark.parametrize("name", ["transformer_blocks.0.attn1.to_k.weight", "transformer_blocks.1.ff.net.2.bias"])
def test_a_missing_weight_is_told(folder, name):
    path = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    state = load_file(path)
    del state[name]
    save_file(state, path)
    with pytest.raises(DifflabError, match=r"missing|incomplete"):
        difflab.load(folder)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [("norm_type", "layer_norm", "norm_type is"), ("num_layers", None, "num_layers|missing|NoneType")],
)
def test_what_is_no_dit_is_refused(folder, field, value, words):
    path = folder / "transformer" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    with pytest.raises(DifflabError, match=words):
        difflab.load(folder)


def test_names_of_classes_come_with_a_pipeline(folder, model):
    index = json.loads((folder / "model_index.json").read_text())
    names = {str(i): f"thing {i}" for i in range(5)}
    (folder / "model_index.json").write_text(json.dumps(index | {"id2label": names}))
    assert difflab.load(folder).card.classes == tuple(names.values())


@pytest.mark.parametrize("changes", [{"conditioning": "adaln"}, {"mlp_ratio": 2.0}, {"class_dropout_prob": 0.0}])
def test_what_diffusers_cannot_express_is_refused(tmp_path, changes):
    other = tiny_dit(**changes)
    with pytest.raises(DifflabError, match="convert it to difflab instead"):
        write_diffusers_dit(tmp_path / "dit", other.card, other.network.state_dict())
    assert not (tmp_path / "dit").exists()
