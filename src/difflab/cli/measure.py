"""`difflab score` and `difflab stats`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from difflab.cli.options import Features, Fps, Frames, Size, SkipBroken, Split, Stride


def score(
    metric: Annotated[
        str,
        typer.Argument(
            help="fid, sfid, is, precision, recall, kid, density, coverage, fd-infinity; fvd, kvd of clips; clipscore, by captions; or adm, the first five. FID is called FD unless the features are Inception's."
        ),
    ],
    samples: Annotated[str, typer.Argument(help="Folder, .npz, .tar, .tar.gz, lmdb, or data set name.")],
    reference: Annotated[
        str, typer.Argument(help="The same, or statistics .npz; for clipscore a text file with a caption a line.")
    ],
    features: Features = None,
    split: Split = None,
    size: Size = None,
    skip_broken: SkipBroken = False,
    frames: Frames = None,
    stride: Stride = 1,
    fps: Fps = None,
    json: Annotated[bool, typer.Option("--json", help="Print value, interval, n and passport as JSON.")] = False,
) -> None:
    """Score pictures against a reference, with intervals."""
    from difflab.cli.options import pick_device
    from difflab.errors import DifflabError, suggest
    from difflab.score.adm import ADM
    from difflab.study.captioned import CLIP, score_by_captions
    from difflab.study.measure import METRICS
    from difflab.study.measure import scores as measure

    known = ("adm", "clipscore", *METRICS)
    if metric not in known:
        raise DifflabError(f"metric {metric!r} is not known.{suggest(metric, known)}")
    metrics = list(ADM) if metric == "adm" else [metric]
    if metric == "clipscore":
        if (size, skip_broken, frames, stride, fps) != (None, False, None, 1, None):
            raise DifflabError(
                "--size, --skip-broken, --frames, --stride and --fps are not of clipscore; leave them out."
            )
        clip = features or CLIP
        found = {metric: score_by_captions(samples, reference, clip=clip, split=split, device=pick_device(None))}
    else:
        found = measure(
            metrics, samples, reference, features=features, split=split, size=size, skip_broken=skip_broken,
            device=pick_device(None), lenient=metric == "adm", frames=frames, stride=stride, fps=fps,
        )  # fmt: skip
    if json:
        import json as encoder

        records = [
            {"metric": s.metric, "value": s.value, "low": s.low, "high": s.high, "n": s.n, "passport": s.passport}
            for s in found.values()
        ]
        print(encoder.dumps(records if metric == "adm" else records[0], indent=2))
        return
    width = max(len(s.metric) for s in found.values())
    for s in found.values():
        print(f"{s.metric:<{width}} {s.value:.4g}  [{s.low:.4g}, {s.high:.4g}]  n = {s.n}{_against(s.passport)}")


def _against(passport: Mapping[str, Any]) -> str:
    points = passport.get("reference", {}).get("points")
    return f", {points} reference pictures" if points else ""


def stats(
    data: Annotated[str, typer.Argument(help="Folder, .npz, .tar, .tar.gz, lmdb, or data set name.")],
    out: Annotated[Path, typer.Option(help="Where to write: FILE.npz.")],
    features: Features = None,
    split: Split = None,
    size: Size = None,
    skip_broken: SkipBroken = False,
    frames: Frames = None,
    stride: Stride = 1,
    fps: Fps = None,
) -> None:
    """Compute reference statistics of pictures, or with --frames of clips, with a passport."""
    from difflab.data.clips import Window
    from difflab.errors import DifflabError
    from difflab.study.measure import stats as compute

    if frames is None and (stride, fps) != (1, None):
        raise DifflabError("--stride and --fps are of clips; give --frames too.")
    window = None if frames is None else Window(frames, stride, fps)
    made = compute(data, out, features=features, split=split, size=size, skip_broken=skip_broken, window=window)
    skipped = (made.passport or {}).get("skipped", 0)
    print(
        f"{out}: {len(made.mu)} features of {made.n} {'pictures' if window is None else 'clips'}{f', {skipped} broken ones passed over' if skipped else ''}"
    )
