"""`difflab score` and `difflab stats`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from difflab.cli.options import Features, Size, SkipBroken, Split


def score(
    metric: Annotated[str, typer.Argument(help="fid (called FD unless the features are Inception's).")],
    samples: Annotated[str, typer.Argument(help="Folder, .npz, .tar, .tar.gz, lmdb, or data set name.")],
    reference: Annotated[str, typer.Argument(help="The same, or statistics .npz.")],
    features: Features = None,
    split: Split = None,
    size: Size = None,
    skip_broken: SkipBroken = False,
    json: Annotated[bool, typer.Option("--json", help="Print value, interval, n and passport as JSON.")] = False,
) -> None:
    """Score pictures against a reference, with an interval."""
    from difflab.study.measure import score as measure

    result = measure(metric, samples, reference, features=features, split=split, size=size, skip_broken=skip_broken)
    if json:
        import json as encoder

        record = {"metric": result.metric, "value": result.value, "low": result.low, "high": result.high, "n": result.n}
        print(encoder.dumps(record | {"passport": result.passport}, indent=2))
    else:
        print(f"{result.metric} {result.value:.4g}  [{result.low:.4g}, {result.high:.4g}]  n = {result.n}")


def stats(
    data: Annotated[str, typer.Argument(help="Folder, .npz, .tar, .tar.gz, lmdb, or data set name.")],
    out: Annotated[Path, typer.Option(help="Where to write: FILE.npz.")],
    features: Features = None,
    split: Split = None,
    size: Size = None,
    skip_broken: SkipBroken = False,
) -> None:
    """Compute reference statistics of pictures, with a passport."""
    from difflab.study.measure import stats as compute

    made = compute(data, out, features=features, split=split, size=size, skip_broken=skip_broken)
    skipped = (made.passport or {}).get("skipped", 0)
    print(
        f"{out}: {len(made.mu)} features of {made.n} pictures{f', {skipped} broken ones passed over' if skipped else ''}"
    )
