from __future__ import annotations

from pathlib import Path

import pytest
import torch

from difflab.errors import DifflabError
from difflab.train.config import FeaturesRecipe, OptimConfig, read_recipe
from difflab.train.objective import make_objective
from difflab.zoo.official import read_config

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))

TEXT = """
name: tiny
data: {source: shapes, size: 16}
network: {image_size: 16, ch: 32, ch_mult: [1, 2]}
steps: 10
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "tiny.yaml"
    file.write_text(TEXT)
    return file


@pytest.mark.parametrize("shipped", RECIPES, ids=lambda p: p.stem)
def test_every_shipped_recipe_parses_and_builds(shipped):
    recipe = read_recipe(shipped)
    objective = make_objective(recipe)
    with torch.device("meta"):
        assert sum(p.numel() for p in objective.build().parameters()) > 10_000
    assert recipe.name == shipped.stem


def test_there_are_shipped_recipes():
    assert {"shapes-unet2d", "cifar10-official"} <= {p.stem for p in RECIPES}


def test_the_official_recipe_has_the_official_values():
    recipe = read_recipe(next(p for p in RECIPES if p.stem == "cifar10-official"))
    official = read_config("cifar10")
    network = official.model.model_dump(exclude={"type", "var_type", "ema", "ema_rate"})
    assert recipe.network.model_dump(exclude={"image_size", "patch", "groups"}) == network
    assert (recipe.network.image_size, recipe.network.patch, recipe.network.groups) == (32, 1, 32)
    assert recipe.schedule.model_dump() == {"name": "linear", "timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02}
    assert (recipe.prediction, recipe.reduction, recipe.timesteps, recipe.ema_rate) == (
        "eps",
        "sum",
        "antithetic",
        0.9999,
    )
    expected = OptimConfig(
        name="adam", lr=2e-4, betas=(0.9, 0.999), eps=1e-8, weight_decay=0, grad_clip=1.0, warmup=0, decay=0
    )
    assert recipe.optim == expected
    assert (recipe.batch, recipe.data.flip) == (128, True)


def test_what_is_left_out_has_defaults(path):
    recipe = read_recipe(path)
    assert (recipe.kind, recipe.prediction, recipe.schedule.name, recipe.optim.name) == (
        "diffusion",
        "eps",
        "linear",
        "adam",
    )


@pytest.mark.parametrize(
    ("override", "read", "expected"),
    [
        ("steps=7", lambda r: r.steps, 7),
        ("optim.lr=1e-4", lambda r: r.optim.lr, 1e-4),
        ("optim.lr=2.5E-3", lambda r: r.optim.lr, 2.5e-3),
        ("optim.grad_clip=null", lambda r: r.optim.grad_clip, None),
        ("network.ch_mult=[1, 2, 4]", lambda r: r.network.ch_mult, (1, 2, 4)),
        ("data.flip=false", lambda r: r.data.flip, False),
        ("data.source=a=b", lambda r: r.data.source, "a=b"),
        ("schedule.name=cosine", lambda r: r.schedule.name, "cosine"),
    ],
)
def test_overrides_reach_their_field_with_its_type(path, override, read, expected):
    assert read(read_recipe(path, [override])) == expected


def test_the_last_override_wins(path):
    assert read_recipe(path, ["steps=7", "steps=8"]).steps == 8


def test_recipes_may_write_powers_of_ten_as_people_do(path):
    path.write_text(TEXT + "optim: {lr: 1e-4}\n")
    assert read_recipe(path).optim.lr == 1e-4


def test_features_recipes_are_told_by_their_kind(path):
    path.write_text("{name: f, kind: features, data: {source: shapes, flip: false}, steps: 1, heads: {count: 2}}")
    assert isinstance(read_recipe(path), FeaturesRecipe)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("optim.lrr=1", r"tiny\.yaml: the field 'optim\.lrr' is not known.*'lr'"),
        ("step=1", r"'step' is not known.*'steps'"),
        ("network.chmult=[1]", r"network: has no field 'chmult' in the family unet2d\. Did you mean 'ch_mult'\?"),
        ("steps=0", r"'steps' is 0: .*greater than 0"),
        ("steps=many", r"'steps' is 'many'"),
        ("prediction=epsilon", r"'prediction' is 'epsilon': .*'eps'"),
        ("ema_rate=1.5", r"'ema_rate' is 1\.5"),
        ("name=../../evil", r"name is '\.\./\.\./evil', but must name a file"),
        ("optim.lr=[1", r"'optim\.lr=\[1': the value is not YAML"),
        ("weighting=v", r"weighting is v, but prediction is eps: .*choose prediction: x0"),
        ("target=exact", r"target is exact, but data is .*choose target: data"),
        ("timesteps=lognormal", r"timesteps: lognormal and noise_level belong together"),
        ("noise_level=[0, 1]", r"timesteps: lognormal and noise_level belong together"),
        ("network.ch=33", r"network: ch is 33, but group norm needs a multiple of 32"),
        ("network.image_size=15", r"network: image_size is 15"),
        ("kind=wavelets", r"wavelets"),
        ("kind=[a]", r"kind \['a'\] is not known"),
        ("network.out_ch=5", r"gives 5 channels, not 3"),
        ("data.size=64", r"network takes \(3, 16, 16\).*pictures \(3, 64, 64\)"),
        ("network.dropout=1", r"'network\.dropout' is 1: .*less than 1"),
        ("variance=learned", r"variance is learned, but the network does not learn"),
        ("optim.betas=[0.9, 1.0]", r"'optim\.betas\.1' is 1\.0"),
        ("optim.eps=0", r"'optim\.eps' is 0"),
        ("seed=99999999999999999999999", r"'seed' is 9+"),
        ("optim.lr=1e400", r"'optim\.lr' is inf"),
        ("batch=1e9", r"'batch' is 1000000000\.0"),
        ("steps", r"'steps' has no '='"),
        ("name.first=a", r"'name' is a single value"),
    ],
)
def test_wrong_fields_are_named(path, override, words):
    with pytest.raises(DifflabError, match=words):
        read_recipe(path, [override])


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("heads={}", r"'heads' is \{\}"),
        ("width=20", r"'width' is 20: .*multiple of 8"),
        ("data.size=64", r"data\.size is 64, but feature networks look at 32 pixels"),
        ("data.flip=true", r"data\.flip is true, but mirrored scenes have other places"),
    ],
)
def test_wrong_fields_of_a_features_recipe_are_named(path, override, words):
    path.write_text("{name: f, kind: features, data: {source: shapes, flip: false}, steps: 1, heads: {count: 2}}")
    with pytest.raises(DifflabError, match=words):
        read_recipe(path, [override])


def test_the_exact_mean_is_of_pictures_without_added_noise(path):
    with pytest.raises(DifflabError, match="shapes at 32 pixels with gaussian noise"):
        read_recipe(path, ["target=exact", "data.size=32", "network.image_size=32", "data.dequantization=gaussian"])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name: [a", "not YAML"),
        ("- a\n- b", "found list, but a recipe is a YAML mapping"),
        ("", "found NoneType"),
        ("\x00", "not YAML"),
        ("name: a\nsteps: 1\ndata: {source: shapes}", "'network' is missing"),
    ],
)
def test_files_that_are_no_recipes_are_refused(path, text, words):
    path.write_text(text)
    with pytest.raises(DifflabError, match=rf"tiny\.yaml: .*{words}"):
        read_recipe(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DifflabError, match=r"none\.yaml: the recipe cannot be read"):
        read_recipe(tmp_path / "none.yaml")


# --- learning rate


def rates(steps: int = 100, **settings) -> list[float]:
    config = OptimConfig(lr=2.0, **settings)
    return [config.lr_at(step, steps) for step in range(steps)]


def test_the_rate_is_constant_unless_told():
    assert rates() == [2.0] * 100


def test_warm_up_rises_evenly_to_the_rate():
    assert rates(warmup=4)[:6] == [0.5, 1.0, 1.5, 2.0, 2.0, 2.0]


def test_decay_falls_evenly_over_its_share_and_would_be_zero_one_step_later():
    found = rates(decay=0.25)
    assert found[:76] == [2.0] * 76
    assert found[75:] == pytest.approx([2.0 * k / 25 for k in range(25, 0, -1)])


def test_where_warm_up_and_decay_meet_the_smaller_rate_counts():
    found = rates(steps=10, warmup=10, decay=1.0)
    assert found == pytest.approx([2.0 * min(k + 1, 10 - k) / 10 for k in range(10)])
