"""Peak memory of one study cell with few and with many samples: it should not grow with their number.

Each count runs in a process of its own, after a first one has measured the reference and left it in the store. Model
and features are tiny and untrained, so that what grows with the samples is not hidden by what does not.

    python benchmarks/memory.py [--counts 500 5000] [--steps 1]
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

# torch is imported inside functions: a child process counts its parent's memory at the fork towards its own peak.


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", type=int, nargs="+", default=[500, 5000])
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--alone", type=int, metavar="COUNT", help=argparse.SUPPRESS)  # a child process: run one cell
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.alone:
        print(json.dumps(run_cell(options)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        options.folder = Path(scratch)
        in_child(options, 64)
        print(f"{'samples':>8}{'loaded MiB':>12}{'peak MiB':>10}")
        peaks = []
        for count in options.counts:
            memory = in_child(options, count)
            peaks.append(memory["peak"])
            print(f"{count:>8}{memory['loaded']:>12.0f}{memory['peak']:>10.0f}")
        print(f"ratio of the last to the first: {peaks[-1] / peaks[0]:.3f}")


def in_child(options: argparse.Namespace, count: int) -> dict[str, float]:
    """What `run_cell` finds in a process of its own."""
    command = [sys.executable, __file__, "--alone", str(count), "--folder", str(options.folder)]
    command += ["--steps", str(options.steps), "--threads", str(options.threads)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def run_cell(options: argparse.Namespace) -> dict[str, float]:
    """Peak resident memory in MiB before and after a study of one cell."""
    import torch

    from difflab.study.run import run_study
    from difflab.study.spec import Settings, Study

    torch.set_num_threads(options.threads)
    model, features = options.folder / "model.safetensors", options.folder / "features.safetensors"
    if not model.exists():
        write(model, features)
    study = Study(
        name="memory",
        model=str(model),
        reference="shapes",
        features=str(features),
        base=Settings(steps=options.steps, count=options.alone),
        axes={"eta": [0.0]},
        replicates=10,
    )
    loaded = peak()
    run_study(study, options.folder / "study", device="cpu")
    return {"loaded": loaded, "peak": peak()}


def write(model: Path, features: Path) -> None:
    """Tiny networks with random weights."""
    from difflab.score.features import SmallFeatures, SmallFeaturesConfig, save_small_features
    from difflab.zoo.card import Card
    from difflab.zoo.checkpoint import save_checkpoint
    from difflab.zoo.families import FAMILIES, UNet2DConfig

    network = UNet2DConfig(
        image_size=32, ch=8, ch_mult=(1, 2), num_res_blocks=1, attn_resolutions=(), patch=4, groups=4
    )
    card = Card(name="memory", network=network, prediction="v")
    save_checkpoint(model, card, FAMILIES["unet2d"].build(network).state_dict())
    save_small_features(features, SmallFeatures(SmallFeaturesConfig(width=8, dim=16, heads={"count": 2})), "memory")


def peak() -> float:
    """Peak resident memory of this process so far, in MiB (Linux counts in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
