"""CLIPScore of pictures in files, by captions in another."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from tests import tiny_text

from difflab.errors import DifflabError
from difflab.score.clipscore import ClipScorer
from difflab.study.captioned import score_by_captions

pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> str:
    return str(tiny_text.clip(tmp_path_factory.mktemp("models") / "clip", length=48))


def pictures(folder, names) -> np.ndarray:
    folder.mkdir()
    images = np.random.default_rng(0).integers(0, 256, (len(names), 8, 8, 3), np.uint8)
    for name, image in zip(names, images, strict=True):
        Image.fromarray(image).save(folder / f"{name}.png")
    return images


def test_each_line_belongs_to_the_picture_in_its_place(clip, tmp_path):
    images, lines = pictures(tmp_path / "drawn", ["00", "01", "02"]), ["a red cat", "a dog", "two of a photo"]
    (tmp_path / "captions.txt").write_text("\ufeff" + "\n".join(lines) + "\n", encoding="utf-8")
    found = score_by_captions(tmp_path / "drawn", tmp_path / "captions.txt", clip=clip)
    cosines = ClipScorer(clip).cosines(images, lines)
    assert found.value == pytest.approx(2.5 * np.maximum(cosines, 0).mean(), abs=1e-6)
    assert (found.n, found.passport["features"]["name"]) == (3, clip)


@pytest.mark.parametrize(
    ("names", "lines", "said"),
    [
        (["0", "1"], ["a", "b", "c"], "has 3 lines, but .* has 2 pictures"),
        (["0", "1"], ["a", ""], "line 2 is blank"),
        ([str(i) for i in range(11)], ["a"] * 11, "read by name"),
    ],
)
def test_captions_that_would_go_astray_are_refused(clip, tmp_path, names, lines, said):
    pictures(tmp_path / "drawn", names)
    (tmp_path / "captions.txt").write_text("\n".join(lines) + "\n")
    with pytest.raises(DifflabError, match=said):
        score_by_captions(tmp_path / "drawn", tmp_path / "captions.txt", clip=clip)
