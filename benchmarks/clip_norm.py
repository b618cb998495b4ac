"""Group norm over all frames of a clip: the library's kernel, which the 3D U-Net uses, against the formula written out.

Both see frames folded into the batch with channels last in memory, as the network does.

    python benchmarks/clip_norm.py [--repeats 15]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor

from difflab.nets.unet3d import ClipGroupNorm

CLIPS, FRAMES, GROUPS = 8, 8, 8
SIZES = ((32, 16), (64, 8), (96, 4))  # channels and side, as in shapes-unet3d


def written_out(norm: ClipGroupNorm, h: Tensor) -> Tensor:
    """The same norm by means and variances."""
    parts = h.permute(0, 2, 3, 1).unflatten(0, (CLIPS, FRAMES)).unflatten(-1, (GROUPS, -1))
    var, mean = torch.var_mean(parts, dim=(1, 2, 3, 5), keepdim=True, correction=0)
    parts = ((parts - mean) * torch.rsqrt(var + 1e-5)).flatten(-2).flatten(0, 1)
    return torch.addcmul(norm.bias, parts, norm.weight).permute(0, 3, 1, 2)


def best_ms(work: Callable[[], object], repeats: int) -> float:
    """The least time of several, in ms."""
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return 1e3 * min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    for channels, side in SIZES:
        norm = ClipGroupNorm(GROUPS, channels)
        h = torch.randn(CLIPS * FRAMES, channels, side, side).contiguous(memory_format=torch.channels_last)
        weights = torch.randn_like(h)
        found = []
        for forward in (lambda x, n=norm: n(x, FRAMES), lambda x, n=norm: written_out(n, x)):
            with torch.no_grad():
                alone = best_ms(lambda f=forward, x=h: f(x), repeats)
            traced = h.clone().requires_grad_()
            found.append((alone, best_ms(lambda f=forward, x=traced, w=weights: f(x).backward(w), repeats)))
        (kernel, kernel_both), (formula, formula_both) = found
        print(
            f"{channels} channels, {side}x{side}: forward {kernel:.2f} ms, written out {formula:.2f} "
            f"({formula / kernel:.0f} times); with its gradient {kernel_both:.2f} ms, written out {formula_both:.2f} "
            f"({formula_both / kernel_both:.0f} times)"
        )


if __name__ == "__main__":
    main()
