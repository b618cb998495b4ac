"""CLIPScore of pictures that are there, by captions in a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from difflab.data.sources import open_data
from difflab.errors import DifflabError
from difflab.score.clipscore import ClipScorer
from difflab.score.scores import Score
from difflab.study.measure import picture_batches

CLIP = "openai/clip-vit-base-patch32"  # the paper's


def score_by_captions(samples: str | Path, captions: str | Path, *, clip: str = CLIP, device: str = "cpu") -> Score:
    """CLIPScore of pictures, the i-th of which belongs to the i-th line of a text file.

    Args:
        samples: folder, archive, .npz or data set name.
        captions: the text file.
        clip: see `score.clipscore.ClipScorer`.
        device: where CLIP runs.

    Raises DifflabError for data that cannot be read, or not as many lines as pictures.
    """
    try:
        lines = Path(captions).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DifflabError(
            f"{captions}: cannot be read; clipscore needs a text file with the caption of each picture, one a line."
        ) from error
    pictures = open_data(samples)
    if len(pictures) != len(lines):
        raise DifflabError(
            f"{captions}: has {len(lines)} lines, but {samples} has {len(pictures)} pictures; each needs its caption."
        )
    scorer, cosines, seen = ClipScorer(clip, device), [], 0
    for images, _ in picture_batches(pictures):
        cosines.append(scorer.cosines(images, lines[seen : seen + len(images)]))
        seen += len(images)
    return scorer.of(np.concatenate(cosines))
