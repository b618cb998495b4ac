"""A tiny folder in MS-COCO's layout."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

CAPTIONS = {  # in no order, and with the white space of the official files
    7: ["A red cat.", " two dogs\n on a  couch"],
    3: ["a photo of a dog", "a dog"],
    12: ["a cat", "a cat", "red"],
}


def write_coco(root: Path, split: str = "train2017", side: int = 24) -> Path:
    """Three images, of `side` pixels and more, with two or three captions each."""
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    (root / split).mkdir()
    prefix = f"COCO_{split}_" if split.endswith("2014") else ""
    images = [{"id": number, "file_name": f"{prefix}{number:012d}.jpg", "license": 4} for number in CAPTIONS]
    for image in images:
        flat = np.full((side, side + image["id"], 3), 20 * image["id"], np.uint8)
        Image.fromarray(flat).save(root / split / image["file_name"], quality=95)
    annotations = [
        {"id": 100 - place, "image_id": number, "caption": captions[place]}
        for place in range(3)
        for number, captions in CAPTIONS.items()
        if place < len(captions)
    ]
    write_captions(root, split, {"info": {}, "licenses": [], "images": images, "annotations": annotations})
    return root


def write_captions(root: Path, split: str, content: object) -> None:
    (root / "annotations" / f"captions_{split}.json").write_text(json.dumps(content))
