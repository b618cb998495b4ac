"""A forward pass of our U-Net against diffusers' `UNet2DModel` with the same weights: time and peak memory.

The weights are random, written once as a diffusers folder that both sides read. Timings take turns, so that a slow
minute slows all sides alike. Ours runs in channels-last order; diffusers is timed as it comes and in that order.
Peak memory is that of a process of its own that loads the folder and runs the same forwards.

    python benchmarks/unet2d.py [--network small|cifar10] [--batch 8] [--repeats 10] [--threads 1]
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# torch is imported inside functions: a child process counts its parent's memory at the fork towards its own peak.

NETWORKS: dict[str, dict[str, Any]] = {
    "small": {"image_size": 32, "ch": 64, "ch_mult": (1, 2, 2), "num_res_blocks": 1, "attn_resolutions": (8,)},
    "cifar10": {"image_size": 32, "ch": 128, "ch_mult": (1, 2, 2, 2), "num_res_blocks": 2, "attn_resolutions": (16,)},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=NETWORKS, default="small")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--alone", metavar="SIDE", help=argparse.SUPPRESS
    )  # a child process: measure this side's memory
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.alone:
        print(json.dumps(memory_of(options)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        options.folder = Path(scratch)
        in_child(options, "write")
        peaks = {side: in_child(options, side) for side in SIDES}
        compare(options, peaks)


def write(folder: Path, network: dict[str, Any]) -> None:
    """A diffusers folder with random weights."""
    import torch

    from difflab.zoo.card import Card
    from difflab.zoo.diffusers_unet import write_diffusers_unet
    from difflab.zoo.families import FAMILIES, UNet2DConfig

    torch.manual_seed(0)
    card = Card(name="benchmark", network=UNet2DConfig(**network))
    write_diffusers_unet(folder, card, FAMILIES["unet2d"].build(card.network).state_dict())


def ours(folder: Path) -> Callable[..., Any]:
    """(x, t) -> output, by difflab."""
    import difflab

    return difflab.load(folder).network


def theirs(folder: Path) -> Callable[..., Any]:
    """(x, t) -> output, by diffusers."""
    from diffusers import UNet2DModel

    network = UNet2DModel.from_pretrained(folder).eval()
    return lambda x, t: network(x, t).sample


def theirs_channels_last(folder: Path) -> Callable[..., Any]:
    """(x, t) -> output, by diffusers in the memory order that ours uses."""
    import torch
    from diffusers import UNet2DModel

    network = UNet2DModel.from_pretrained(folder).eval().to(memory_format=torch.channels_last)
    return lambda x, t: network(x, t).sample


SIDES = {"difflab": ours, "diffusers": theirs, "diffusers, channels last": theirs_channels_last}


def in_child(options: argparse.Namespace, side: str) -> dict[str, float]:
    """What `memory_of` finds in a process of its own."""
    command = [sys.executable, __file__, "--alone", side, "--folder", str(options.folder), "--network", options.network]
    command += ["--batch", str(options.batch), "--threads", str(options.threads)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def memory_of(options: argparse.Namespace) -> dict[str, float]:
    """Peak resident memory in MiB with the model loaded, and after three forwards."""
    import torch

    torch.set_num_threads(options.threads)
    if options.alone == "write":
        write(options.folder, NETWORKS[options.network])
        return {}
    network, x, t = SIDES[options.alone](options.folder), *inputs(options)
    loaded = peak()
    with torch.no_grad():
        for _ in range(3):
            network(x, t)
    return {"loaded": loaded, "forward": peak()}


def peak() -> float:
    """Peak resident memory of this process so far, in MiB (Linux counts in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def inputs(options: argparse.Namespace) -> tuple[Any, Any]:
    """Noise and timesteps."""
    import torch

    size = NETWORKS[options.network]["image_size"]
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(options.batch, 3, size, size, generator=generator)
    return x, torch.randint(0, 1000, (options.batch,), generator=generator).float()


def compare(options: argparse.Namespace, peaks: dict[str, dict[str, float]]) -> None:
    """Print one row a side: times of interleaved forwards, memory, and how far its output is from ours."""
    import torch

    torch.set_num_threads(options.threads)
    networks = {side: make(options.folder) for side, make in SIDES.items()}
    x, t = inputs(options)
    times: dict[str, list[float]] = {side: [] for side in SIDES}
    with torch.no_grad():
        outputs = {side: network(x, t) for side, network in networks.items()}  # the first pass costs extra
        for _ in range(options.repeats):
            for side, network in networks.items():
                start = time.perf_counter()
                network(x, t)
                times[side].append(time.perf_counter() - start)
    print(f"{options.network} network, batch {options.batch}, {options.threads} threads, {options.repeats} repeats")
    print(f"{'':<26}{'median s':>10}{'min s':>10}{'loaded MiB':>12}{'peak MiB':>10}{'difference':>12}")
    for side, seconds in times.items():
        gap = (outputs[side] - outputs["difflab"]).abs().max().item() / outputs["difflab"].std().item()
        memory = peaks[side]
        print(
            f"{side:<26}{statistics.median(seconds):>10.4f}{min(seconds):>10.4f}"
            f"{memory['loaded']:>12.0f}{memory['forward']:>10.0f}{gap:>12.1e}"
        )


if __name__ == "__main__":
    main()
