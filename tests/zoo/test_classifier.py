"""Noisy classifiers: their files, and models that they guide, through the public functions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.zoo.dits import tiny_dit

import difflab
from difflab.errors import DifflabError
from difflab.nets.adm import ADM, NoisyClassifier
from difflab.zoo.card import Card
from difflab.zoo.classifier import Classifier, classifier_fields, open_classifier
from difflab.zoo.draw import Draw, labels_of, plan
from difflab.zoo.families import ADMConfig
from difflab.zoo.model import Model, build_model
from difflab.zoo.registry import home
from difflab.zoo.sampling import sample_batches

RELEASED = {
    64: {"num_res_blocks": 4, "channel_mult": (1, 2, 3, 4)},
    128: {"num_res_blocks": 2, "channel_mult": (1, 1, 2, 3, 4)},
    256: {"num_res_blocks": 2, "channel_mult": (1, 1, 2, 2, 4, 4)},
    512: {"num_res_blocks": 2, "channel_mult": (0.5, 1, 1, 2, 2, 4, 4)},
}
TINY = {
    "image_size": 8, "num_channels": 32, "num_res_blocks": 1, "channel_mult": (1, 2), "attention_resolutions": (4,),
    "num_classes": 5,
}  # fmt: skip


def filled(network: torch.nn.Module, seed: int) -> torch.nn.Module:
    """With random values in the place of the zeros that branches begin with."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in network.parameters():
            value.copy_(torch.randn(value.shape, generator=generator) * 0.1)
    return network


def classifier_file(folder, name: str = "c.pt", **changes) -> str:
    torch.save(filled(NoisyClassifier(**{**TINY, **changes}), 1).state_dict(), folder / name)
    return str(folder / name)


def model(**changes) -> Model:
    config = ADMConfig(**{
        "image_size": 8, "num_channels": 32, "num_res_blocks": 1, "channel_mult": (1, 2), "attention_resolutions": (4,),
        "num_classes": 5, "learn_sigma": True, **changes,
    })  # fmt: skip
    variance = "learned" if config.learn_sigma else "large"
    card = Card(name="tiny", family="adm", network=config, variance=variance, rounding="floor")
    return build_model(card, filled(ADM(**config.model_dump()), 0).state_dict())


@pytest.mark.parametrize("side", RELEASED)
def test_released_classifiers_are_known_by_their_shapes(side):
    told = {"image_size": side, "num_channels": 128, "attention_resolutions": (32, 16, 8), **RELEASED[side]}
    with torch.device("meta"):
        state = NoisyClassifier(**told).state_dict()
    found = classifier_fields(state, "x.pt")
    assert {name: found[name] for name in told} == told
    assert (found["num_classes"], found["resblock_updown"], found["use_scale_shift_norm"]) == (1000, True, True)
    with torch.device("meta"):
        again = NoisyClassifier(**found).state_dict()
    assert {name: value.shape for name, value in again.items()} == {n: value.shape for n, value in state.items()}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"resblock_updown": False},
        {"use_scale_shift_norm": False, "num_res_blocks": 2, "channel_mult": (1, 2, 4), "image_size": 16},
        {"channel_mult": (2,), "attention_resolutions": (8,), "num_res_blocks": 2},
    ],
)
def test_files_are_opened_by_their_shapes(tmp_path, changes):
    fields = {**TINY, **changes}
    opened = open_classifier(classifier_file(tmp_path, **changes))
    side = fields["image_size"]
    assert (opened.name, opened.classes, opened.shape) == ("c", 5, (3, side, side))
    x, t = torch.randn(2, 3, side, side), torch.tensor([3.0, 700.0])
    direct = filled(NoisyClassifier(**fields), 1).eval()
    torch.testing.assert_close(opened(x, t), direct(x, t))


def test_a_name_finds_the_file_where_it_lies(tmp_path):
    with pytest.raises(DifflabError, match="adm-classifier64 is not on this machine; run `difflab models fetch"):
        open_classifier("adm-classifier64")
    (home() / "models").mkdir(parents=True)
    classifier_file(home() / "models", "64x64_classifier.pt")
    assert open_classifier("adm-classifier64").name == "adm-classifier64"


def test_what_is_no_classifier_is_told_in_one_sentence(tmp_path):
    torch.save(ADM(**ADMConfig(image_size=8, num_channels=32).model_dump()).state_dict(), tmp_path / "adm.pt")
    with pytest.raises(DifflabError, match="not a noisy classifier of guided-diffusion with attention pooling, which"):
        open_classifier(tmp_path / "adm.pt")
    with pytest.raises(DifflabError, match=r"nor a noisy classifier of that name\. Did you mean 'adm-cl"):
        open_classifier("adm-classifer64")
    (tmp_path / "text.pt").write_text("no weights, but enough of them to see")
    with pytest.raises(DifflabError, match="not a PyTorch checkpoint"):
        open_classifier(tmp_path / "text.pt")
    with pytest.raises(DifflabError, match=r"this is a noisy classifier.*give it as --classifier"):
        difflab.load(classifier_file(tmp_path))


@pytest.mark.parametrize(
    ("lost", "words"),
    [
        ("time_embed.0", "time_embed.0.weight is missing"),
        ("input_blocks.1.0.in_layers", "input_blocks.1.0.in_layers.2.weight is missing"),
        ("out.2.c_proj", "out.2.c_proj.weight is missing"),
        ("input_blocks.3.1", "in 2 ways"),
        ("middle_block.0", "middle_block.0.in_layers.0.weight .* is missing"),
    ],
)
def test_incomplete_files_are_told(tmp_path, lost, words):
    state = torch.load(classifier_file(tmp_path, channel_mult=(1, 1), num_channels=64))
    torch.save({name: value for name, value in state.items() if not name.startswith(lost)}, tmp_path / "cut.pt")
    with pytest.raises(DifflabError, match=words) as caught:
        open_classifier(tmp_path / "cut.pt")
    assert "\n" not in str(caught.value)


def test_heads_that_do_not_fit_are_told(tmp_path):
    state = NoisyClassifier(**{**TINY, "channel_mult": (1, 3), "num_head_channels": 32}).state_dict()
    torch.save(state, tmp_path / "heads.pt")
    with pytest.raises(DifflabError, match=r"attention over 96 channels, but .* has heads of 64"):
        open_classifier(tmp_path / "heads.pt")


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
def test_a_scale_of_zero_is_no_classifier_bit_for_bit_and_one_is_not(tmp_path, sampler):
    tiny, path = model(), classifier_file(tmp_path)
    told = {"sampler": sampler, "steps": 3, "classes": "balanced", "output": "raw"}
    plain = difflab.sample(tiny, 3, **told)
    assert torch.equal(difflab.sample(tiny, 3, **told, classifier=path, classifier_scale=0.0), plain)
    guided = difflab.sample(tiny, 3, **told, classifier=path)
    assert not torch.allclose(guided, plain)
    assert torch.equal(difflab.sample(tiny, 3, **told, classifier=open_classifier(path), classifier_scale=1.0), guided)
    assert not torch.allclose(difflab.sample(tiny, 3, **told, classifier=path, classifier_scale=2.0), guided)


@pytest.mark.parametrize("classes", [5, None])
@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
def test_a_guided_sample_does_not_depend_on_its_batch(tmp_path, sampler, classes):
    tiny = model(num_classes=classes).guided_by(open_classifier(classifier_file(tmp_path)))
    draw = Draw(sampler, steps=3, classifier_scale=3.0)
    together = np.concatenate(list(sample_batches(tiny, draw, 0, range(5), 5)))
    alone = np.concatenate(list(sample_batches(tiny, draw, 0, range(5), 1)))
    assert np.abs(together.astype(int) - alone).max() <= 1


def test_classes_of_an_unconditional_model_come_from_the_classifier(tmp_path):
    tiny, opened = model(num_classes=None), open_classifier(classifier_file(tmp_path))
    with pytest.raises(DifflabError, match="is told no classes, but classes was asked for"):
        difflab.sample(tiny, 2, steps=2, classes=[1])
    told = {"steps": 3, "output": "raw", "classifier": opened, "classifier_scale": 10.0}
    one, other = (difflab.sample(tiny, 2, classes=[c], **told) for c in (1, 2))
    assert not torch.allclose(one, other)
    assert labels_of(tiny, Draw(), 0, range(3)) is None
    assert labels_of(tiny.guided_by(opened), Draw(classes="balanced"), 0, range(7)).tolist() == [0, 1, 2, 3, 4, 0, 1]
    with pytest.raises(DifflabError, match="class 5 was asked for, but its classes are 0 to 4"):
        difflab.sample(tiny, 2, classes=[5], **told)
    with pytest.raises(DifflabError, match="is told no classes, but guidance 2"):
        difflab.sample(tiny, 2, guidance=2.0, **told)


def test_what_does_not_belong_together_is_told_in_one_sentence(tmp_path):
    opened = open_classifier(classifier_file(tmp_path))
    with pytest.raises(DifflabError, match="draws samples 3x16x16, but the classifier c looks at 3x8x8; give one of"):
        difflab.sample(model(image_size=16), 1, classifier=opened)
    with pytest.raises(DifflabError, match="is told 7 classes, but the classifier c knows 5"):
        difflab.sample(model(num_classes=7), 1, classifier=opened)
    with pytest.raises(DifflabError, match="classifier_scale is 2, but there is no classifier"):
        difflab.sample(model(), 1, classifier_scale=2.0)
    with pytest.raises(DifflabError, match="classifier_scale is -1, but must be 0"):
        plan(model().guided_by(opened), Draw(classifier_scale=-1.0))


def test_no_class_is_none_of_a_classifiers():

    tiny = tiny_dit(in_channels=3)  # five classes and "no class"
    fields = {**TINY, "image_size": tiny.shape[-1]}

    opened = Classifier(filled(NoisyClassifier(**fields), 1).eval(), "c", tiny.shape, 5)
    with pytest.raises(DifflabError, match="class 5 was asked for, but its classes are 0 to 4"):
        difflab.sample(tiny, 1, steps=2, classes=5, classifier=opened)
    assert difflab.sample(tiny, 1, steps=2, classes=4, classifier=opened).shape == (1, 8, 8, 3)
