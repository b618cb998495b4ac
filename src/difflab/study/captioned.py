"""CLIPScore of pictures that are there, by captions in a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from difflab.data.dataset import Dataset
from difflab.data.images import EncodedImages
from difflab.data.sources import open_data
from difflab.errors import DifflabError
from difflab.score.clipscore import ClipScorer
from difflab.score.scores import Score
from difflab.study.reference import picture_batches

CLIP = "openai/clip-vit-base-patch32"  # the paper's


def score_by_captions(
    samples: str | Path, captions: str | Path, *, clip: str = CLIP, split: str | None = None, device: str = "cpu"
) -> Score:
    """CLIPScore of pictures, the i-th of which belongs to the i-th line of a text file.

    Args:
        samples: folder, archive, .npz or data set name.
        captions: the text file.
        clip: see `score.clipscore.ClipScorer`; split: of pictures that have several.
        device: where CLIP runs.

    Raises DifflabError for data that cannot be read, not as many lines as pictures, blank lines, and files whose
    numbers come in another order than their names, so that captions would go to others.
    """
    try:
        lines = Path(captions).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DifflabError(
            f"{captions}: cannot be read; clipscore needs a text file with the caption of each picture, one a line."
        ) from error
    if blank := [number for number, line in enumerate(lines, start=1) if not line.strip()]:
        raise DifflabError(f"{captions}: line {blank[0]} is blank, but each picture needs its caption.")
    pictures = open_data(samples, split=split)
    _check_order(pictures)
    if len(pictures) != len(lines):
        raise DifflabError(
            f"{captions}: has {len(lines)} lines, but {samples} has {len(pictures)} pictures; each needs its caption."
        )
    scorer, cosines, seen = ClipScorer(clip, device), [], 0
    for images, _ in picture_batches(pictures):
        cosines.append(scorer.cosines(images, lines[seen : seen + len(images)]))
        seen += len(images)
    return scorer.of(np.concatenate(cosines))


def _check_order(pictures: Dataset) -> None:
    """Raise DifflabError where the numbers in the names of files, such as 10.png before 2.png, do not ascend."""
    if not isinstance(pictures, EncodedImages):
        return
    names = [Path(pictures.describe(index)).stem for index in range(len(pictures))]
    numbers = [int(name) for name in names if name.isdecimal()]
    if len(numbers) == len(names) and numbers != sorted(numbers):
        raise DifflabError(
            f"{pictures.description}: files are read by name, so {names[numbers.index(max(numbers))]} would not come "
            "last; give their numbers equally many digits, as 0002."
        )
