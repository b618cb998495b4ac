from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tests.tiny_coco import write_captions, write_coco
from typer.testing import CliRunner

from difflab.cli.app import app
from difflab.data.coco import CocoCaptions, is_coco
from difflab.data.dataset import Captioned, batches
from difflab.data.sources import open_data
from difflab.errors import DifflabError


def annotations(root: Path, split: str = "train2017") -> dict:
    return json.loads((root / "annotations" / f"captions_{split}.json").read_text())


@pytest.mark.parametrize("split", ["train2014", "val2017"])
def test_images_come_in_order_of_their_ids_with_their_captions(tmp_path, split):
    write_coco(tmp_path, split)
    dataset = open_data(tmp_path)
    assert isinstance(dataset, CocoCaptions)
    assert [round(dataset[i].x.mean()) for i in range(3)] == [60, 140, 240]
    assert [dataset.captions_of(i) for i in range(3)] == [
        ("a photo of a dog", "a dog"),
        ("A red cat.", "two dogs on a couch"),
        ("a cat", "a cat", "red"),
    ]
    assert dataset[1].text == "A red cat."
    assert dataset[1].label is None
    assert dataset.description == f"3 images of MS-COCO ({split}) in {tmp_path}, 7 captions"


def test_captions_pass_through_a_resize_and_only_where_there_are_some(tmp_path):
    write_coco(tmp_path)
    dataset = open_data(tmp_path, size=16)
    assert isinstance(dataset, Captioned)
    assert dataset.captions_of(1) == ("A red cat.", "two dogs on a couch")
    (batch,) = batches(dataset, 3)
    assert batch.x.shape == (3, 16, 16, 3)
    assert batch.texts == ("a photo of a dog", "A red cat.", "a cat")
    assert not isinstance(open_data(tmp_path / "train2017", size=16), Captioned)


def test_splits(tmp_path):
    write_coco(tmp_path, "train2017")
    assert open_data(tmp_path, split="train").description.count("train2017") == 1
    write_coco(tmp_path, "val2014")
    with pytest.raises(DifflabError, match=r"several splits \(val2014, train2017\); say which one with split"):
        open_data(tmp_path)
    assert "val2014" in open_data(tmp_path, split="val").description
    write_coco(tmp_path, "train2014")
    with pytest.raises(DifflabError, match=r"several splits \(train2014, train2017\)"):
        open_data(tmp_path, split="train")
    assert "train2014" in open_data(tmp_path, split="train2014").description
    for split in ("test", "t", "val2017"):
        with pytest.raises(DifflabError, match=f"no split '{split}' of MS-COCO here; choose train2014 or val2014 or"):
            open_data(tmp_path, split=split)


def test_annotations_of_a_split_that_was_not_fetched_do_not_count(tmp_path):
    write_coco(tmp_path, "val2017")
    write_captions(tmp_path, "train2017", annotations(tmp_path, "val2017"))
    assert "val2017" in open_data(tmp_path).description
    with pytest.raises(DifflabError, match=r"3 images, of which 3 are not in .*train2017 \(first: 000000000003.jpg\)"):
        open_data(tmp_path, split="train2017")


def test_a_missing_image_is_named(tmp_path):
    write_coco(tmp_path)
    (tmp_path / "train2017" / "000000000007.jpg").unlink()
    with pytest.raises(DifflabError, match=r"3 images, of which 1 is not in .*\(first: 000000000007.jpg\); unpack"):
        open_data(tmp_path)


def test_images_without_captions_are_left_out(tmp_path):
    write_coco(tmp_path)
    content = annotations(tmp_path)
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] != 3]
    content["annotations"].append({"id": 1, "image_id": 3, "caption": "  "})
    write_captions(tmp_path, "train2017", content)
    dataset = open_data(tmp_path)
    assert len(dataset) == 2
    assert dataset.description.endswith("5 captions, 1 image without any left out")
    write_captions(tmp_path, "train2017", {**content, "annotations": []})
    with pytest.raises(DifflabError, match="not one of its images has a caption"):
        open_data(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        [],
        {"images": []},
        {"images": [{"id": 1}], "annotations": []},
        {"images": [{"id": "1", "file_name": "a"}], "annotations": []},
        {"images": [], "annotations": [{"image_id": 5, "caption": "a"}]},
        {"images": [{"id": 5, "file_name": "a"}], "annotations": [{"image_id": 5, "caption": None}]},
        {"images": [{"id": 5, "file_name": "a"}], "annotations": [{"image_id": 5, "category_id": 3}]},
    ],
)
def test_other_annotations_are_refused_in_a_sentence(tmp_path, content):
    write_coco(tmp_path)
    write_captions(tmp_path, "train2017", content)
    with pytest.raises(DifflabError, match=r"captions_train2017.json: not captions in MS-COCO's form \(.+\), which"):
        open_data(tmp_path)


def test_a_cut_file_is_refused_in_a_sentence(tmp_path):
    write_coco(tmp_path)
    file = tmp_path / "annotations" / "captions_train2017.json"
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(DifflabError, match="not captions in MS-COCO's form"):
        open_data(tmp_path)


def test_a_folder_without_captions_is_none(tmp_path):
    assert not is_coco(tmp_path)
    with pytest.raises(DifflabError, match="no captions of MS-COCO here"):
        CocoCaptions(tmp_path)


def test_it_has_a_name(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFLAB_DATA", str(tmp_path))
    with pytest.raises(DifflabError, match=r"cocodataset\.org/#download and put it into"):
        open_data("coco")
    write_coco(tmp_path / "coco")
    dataset = open_data("coco")
    assert isinstance(dataset, Captioned)
    assert dataset[0].x.shape == (256, 256, 3)


def test_show_tells_the_captions(tmp_path):
    write_coco(tmp_path)
    shown = CliRunner().invoke(app, ["data", "show", str(tmp_path), "--size", "16"]).output
    assert "3 images of MS-COCO (train2017)" in shown
    assert "7 captions of 3 pictures, such as: a photo of a dog" in shown


def test_real_images_and_captions(shared_data: Path) -> None:
    if not is_coco(shared_data / "coco"):
        pytest.skip("the real MS-COCO samples are not here")
    dataset = open_data(shared_data / "coco", split="val2017", size=64)
    assert isinstance(dataset, Captioned)
    assert (len(dataset), {len(dataset.captions_of(i)) for i in range(len(dataset))}) == (48, {5})
    (batch,) = batches(dataset, 48, workers=2)
    assert batch.x.shape == (48, 64, 64, 3)
    assert batch.x.std() > 50
    assert dataset.captions_of(3)[0] == "People working behind glass in a doughnut making factory."
    assert np.unique([len(c) for i in range(48) for c in dataset.captions_of(i)]).size > 20
