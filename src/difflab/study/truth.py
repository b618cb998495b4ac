"""What the truth checker of `shapes` says of samples: whether they are of the world, and what was asked for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from difflab.data.captions import ASPECTS, Claim, judge_clips, judge_scenes, read
from difflab.data.shapes import recognise
from difflab.data.shapes_clips import DIRECTIONS, recognise_clips

UNSAID = -1


def checked(
    images: np.ndarray, labels: np.ndarray | None = None, captions: Sequence[str] | None = None
) -> dict[str, np.ndarray]:
    """What the checker says of scenes or clips (n, ..), by the name of the metric, (n,) each.

    `valid` (bool); where classes were asked for, `accuracy`: valid and of that class, and of clips `direction`: whether
    they move where they were asked to, valid or not; where captions were, for each of their aspects (int8) 1, 0, or -1
    where a caption is silent, and `caption`, whether all that it says is there, valid or not, of captions of one and of
    two shapes also for themselves.
    """
    if images.ndim == 4:
        scenes = recognise(images)
        found = {"valid": scenes.valid}
        if labels is not None:
            found["accuracy"] = scenes.valid & (scenes.scenes.labels == labels)
        if captions is not None:
            claims = [read(caption) for caption in captions]
            found |= _said(claims, judge_scenes(claims, scenes.scenes))
        return found
    clips = recognise_clips(images)
    found = {"valid": clips.valid}
    if labels is not None:
        found["accuracy"] = clips.valid & (clips.motions.labels == labels)
        found["direction"] = clips.moved & (clips.motions.direction == labels % len(DIRECTIONS))
    if captions is not None:
        claims = [read(caption) for caption in captions]
        found |= _said(claims, judge_clips(claims, clips.motions, clips.moved))
    return found


def spoken_of(captions: Sequence[str]) -> set[str]:
    """The metrics of captions that at least one of these has a say in."""
    found = {"caption"}
    for claim in map(read, captions):
        found.add("caption-one" if len(claim.things) == 1 else "caption-two")
        whole = {"relation": claim.relation, "background": claim.background, "speed": claim.speed}
        found |= {name for name, value in whole.items() if value is not None}
        found |= {name for thing in claim.things for name, value in vars(thing).items() if value is not None}
        found |= {"objects"} if claim.direction is None else set()
    return found


def _said(claims: Sequence[Claim], judged: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The aspects, and whether all that each caption says is true."""
    every = np.all([judged[name] != 0 for name in ASPECTS], axis=0).astype(np.int8)
    things = np.array([len(claim.things) for claim in claims])
    return {
        **judged,
        "caption": every,
        "caption-one": np.where(things == 1, every, UNSAID).astype(np.int8),
        "caption-two": np.where(things == 2, every, UNSAID).astype(np.int8),
    }
