from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from difflab.data.celeba import CelebA, is_celeba
from difflab.errors import DifflabError

PARTITION = "000001.jpg 0\n000002.jpg 0\n000003.jpg 1\n000004.jpg 2\n"


def faces(folder: Path, encode, ending: str = "jpg") -> Path:
    folder.mkdir(parents=True)
    for i in range(1, 5):
        flat = np.full((218, 178, 3), 40 * i, np.uint8)
        (folder / f"{i:06d}.{ending}").write_bytes(encode(flat, "JPEG" if ending == "jpg" else "PNG"))
    return folder


def levels(dataset: CelebA) -> list[int]:
    return [round(dataset[i].x.mean() / 40) for i in range(len(dataset))]


@pytest.mark.parametrize(
    ("images", "partition"),
    [
        ("img_align_celeba", "list_eval_partition.txt"),
        ("img_align_celeba", "Eval/list_eval_partition.txt"),
        ("img_align_celeba/img_align_celeba", "list_eval_partition.txt"),
        ("Img/img_align_celeba", "Eval/list_eval_partition.txt"),
    ],
)
def test_the_official_layouts_are_found_and_train_is_the_default(
    tmp_path: Path, images: str, partition: str, encode
) -> None:
    faces(tmp_path / images, encode)
    (tmp_path / partition).parent.mkdir(exist_ok=True)
    (tmp_path / partition).write_text(PARTITION)
    for path in (tmp_path, tmp_path / images):
        assert is_celeba(path)
        assert levels(CelebA(path)) == [1, 2]
        assert levels(CelebA(path, split="valid")) == [3]
        assert levels(CelebA(path, split="test")) == [4]


def test_png_versions_follow_the_same_list(tmp_path: Path, encode) -> None:
    faces(tmp_path / "img_align_celeba", encode, "png")
    (tmp_path / "list_eval_partition.txt").write_text(PARTITION)
    assert levels(CelebA(tmp_path)) == [1, 2]


def test_without_the_list_all_images_are_taken_and_that_is_said(tmp_path: Path, encode) -> None:
    faces(tmp_path / "img_align_celeba", encode)
    dataset = CelebA(tmp_path)
    assert levels(dataset) == [1, 2, 3, 4]
    assert "no partition file" in dataset.description
    with pytest.raises(DifflabError, match="list_eval_partition"):
        CelebA(tmp_path, split="test")


def test_mistakes_are_one_sentence_each(tmp_path: Path, encode) -> None:
    with pytest.raises(DifflabError, match="no folder img_align_celeba"):
        CelebA(tmp_path)
    folder = tmp_path / "img_align_celeba"
    folder.mkdir()
    with pytest.raises(DifflabError, match="no images found"):
        CelebA(tmp_path)
    folder.rmdir()
    faces(folder, encode)
    with pytest.raises(DifflabError, match="train, valid or test"):
        CelebA(tmp_path, split="val")
    (tmp_path / "list_eval_partition.txt").write_text(PARTITION + "000009.jpg 0\n")
    with pytest.raises(DifflabError, match=r"1 are not there \(first: 000009\)"):
        CelebA(tmp_path)
    (tmp_path / "list_eval_partition.txt").write_text("000001.jpg\n")
    with pytest.raises(DifflabError, match="line 1"):
        CelebA(tmp_path)
