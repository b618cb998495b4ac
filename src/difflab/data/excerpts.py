"""Parts of the clips of a data set, as a data set: the last frames of each, or one frame of each."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from difflab.data.dataset import Dataset, Item


def last_frames(clips: np.ndarray, count: int) -> np.ndarray:
    """The last `count` frames of clips (n, F, ..)."""
    return clips[:, -count:]


def single_frames(clips: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """One frame (n, ..) of each clip (n, F, ..): of clip i frame i modulo F, so that all places in time have a part."""
    return clips[np.arange(len(clips)), numbers % clips.shape[1]]


@dataclass(frozen=True)
class Excerpts:
    """The clips of a data set, of which the last `last` frames are looked at, or where that is None one of each."""

    clips: Dataset
    last: int | None

    @property
    def description(self) -> str:
        """What the source was taken for, and what of it is looked at."""
        what = "one frame of each" if self.last is None else f"the last {self.last} frames of each"
        return f"{self.clips.description}, {what}"

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Those of the clips."""
        return self.clips.classes

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> Item:
        item = self.clips[index]
        return replace(item, x=self.of(item.x[None], np.array([index]))[0])

    def of(self, clips: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """What is looked at of the clips with these numbers."""
        return single_frames(clips, numbers) if self.last is None else last_frames(clips, self.last)
