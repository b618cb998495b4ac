"""A forward pass of our 3D U-Net against the way the reference computes the same: time and peak memory.

The reference's way is kept here as the yardstick: 3D convolutions in the default memory layout, norms by normalise and
multiply, attention written out over all places at once. Both sides have the same weights; their answers are compared.
Timings take turns, so that a slow minute slows both alike. Peak memory is that of a process of its own.

    python benchmarks/unet3d.py [--dim 64] [--side 64] [--frames 10] [--repeats 5] [--threads 2]
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import statistics
import subprocess
import sys
import time
from typing import Any

# torch is imported inside functions: a child process counts its parent's memory at the fork towards its own peak.


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--frames", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--alone", choices=SIDES, help=argparse.SUPPRESS)  # a child process: this side's memory
    options = parser.parse_args()
    if options.alone:
        network, x, t = made(options, options.alone)
        before = peak()
        SIDES[options.alone](network, x, t)
        print(json.dumps(peak() - before))
        return
    peaks = {side: in_child(options, side) for side in SIDES}
    compare(options, peaks)


def made(options: argparse.Namespace, side: str) -> tuple[Any, Any, Any]:
    """The network, in the memory layout of a side, and its input; the numbers are the same for every side."""
    import torch

    from difflab.nets.unet3d import UNet3D

    torch.set_num_threads(options.threads)
    torch.set_grad_enabled(False)
    torch.manual_seed(0)
    network = UNet3D(image_size=options.side, dim=options.dim).eval()
    if side == "ours":
        network = network.to(memory_format=torch.channels_last)
    return network, torch.randn(1, 3, options.frames, options.side, options.side), torch.tensor([500.0])


def ours(network: Any, x: Any, t: Any) -> Any:
    """As difflab runs it."""
    return network(x, t)


def written_out(network: Any, x: Any, t: Any) -> Any:
    """As the reference does."""
    import torch

    from difflab.nets.layers import sincos_embedding
    from difflab.nets.unet3d_attention import relative_buckets

    frames = x.shape[2]
    bias = network.position_bias(relative_buckets(frames)).permute(2, 0, 1)
    embedded = network.time_mlp(sincos_embedding(t, network.dim))
    h = conv(network.init_conv, x)
    h = first = h + temporal(network.init_temporal, h, bias)
    skips = []
    for down in network.downs:
        h = resolution(down, h, embedded, bias)
        skips.append(h)
        h = h if down.resample is None else conv(down.resample, h)
    h = residual(network.mid.block1, h, embedded)
    h = h + full(network.mid.spatial, h)
    h = h + temporal(network.mid.temporal, h, bias)
    h = residual(network.mid.block2, h, embedded)
    for up in network.ups:
        h = resolution(up, torch.cat([h, skips.pop()], dim=1), embedded, bias)
        h = h if up.resample is None else conv(up.resample, h)
    return conv(network.final_conv, residual(network.final_block, torch.cat([h, first], dim=1), None))


def conv(layer: Any, x: Any) -> Any:
    """A 2D layer as a 3D one over single frames."""
    import torch.nn.functional as F
    from torch import nn

    how = {"stride": (1, *layer.stride), "padding": (0, *layer.padding)}
    run = F.conv_transpose3d if isinstance(layer, nn.ConvTranspose2d) else F.conv3d
    return run(x, layer.weight.unsqueeze(2), layer.bias, **how)


def resolution(level: Any, h: Any, embedded: Any, bias: Any) -> Any:
    h = residual(level.block2, residual(level.block1, h, embedded), embedded)
    h = h + linear(level.spatial, h)
    return h + temporal(level.temporal, h, bias)


def residual(block: Any, h: Any, embedded: Any) -> Any:
    import torch.nn.functional as F

    told = None
    if block.mlp is not None and embedded is not None:
        told = block.mlp(F.silu(embedded))[..., None, None, None].chunk(2, dim=1)
    x = h
    for part, moved in ((block.block1, told), (block.block2, None)):
        x = conv(part.proj, x)
        x = F.normalize(x, dim=1) * math.sqrt(x.shape[1]) * part.norm.gamma[:, None, None, None]
        if moved is not None:
            x = x * (moved[0] + 1) + moved[1]
        x = F.silu(x)
    return x + (h if block.res_conv is None else conv(block.res_conv, h))


def normed(attention: Any, h: Any) -> Any:
    """Layer norm over channels, by its formula."""
    var = h.var(dim=1, unbiased=False, keepdim=True)
    gamma = attention.norm.weight[:, None, None, None]
    return (h - h.mean(dim=1, keepdim=True)) / (var + 1e-5).sqrt() * gamma


def heads(attention: Any, tokens: Any) -> Any:
    """q, k, v (.., heads, n, width) of tokens (.., n, C)."""
    return (
        part.unflatten(-1, (attention.heads, attention.width)).transpose(-2, -3)
        for part in attention.to_qkv(tokens).chunk(3, dim=-1)
    )


def temporal(attention: Any, h: Any, bias: Any) -> Any:
    import torch

    from difflab.nets.unet3d_attention import rotary_phases, rotate

    side = h.shape[3:]
    tokens = normed(attention, h).permute(0, 3, 4, 2, 1).flatten(1, 2)  # (B, P, F, C)
    q, k, v = heads(attention, tokens)
    phases = rotary_phases(h.shape[2], min(32, attention.width), h.device)
    q, k = rotate(q * attention.width**-0.5, phases), rotate(k, phases)
    scores = torch.einsum("...hid,...hjd->...hij", q, k) + bias
    scores = (scores - scores.amax(dim=-1, keepdim=True)).softmax(dim=-1)
    out = torch.einsum("...hij,...hjd->...hid", scores, v).transpose(-2, -3).flatten(-2)
    return attention.to_out(out).unflatten(1, side).permute(0, 4, 3, 1, 2)


def linear(attention: Any, h: Any) -> Any:
    import torch

    side = h.shape[3:]
    tokens = normed(attention, h).permute(0, 2, 3, 4, 1).flatten(2, 3).flatten(0, 1)  # (B F, P, C)
    q, k, v = heads(attention, tokens)
    q, k = q.softmax(dim=-1) * attention.width**-0.5, k.softmax(dim=-2)
    context = torch.einsum("bhnd,bhne->bhde", k, v)
    out = torch.einsum("bhde,bhnd->bhne", context, q).transpose(1, 2).flatten(2)
    return attention.to_out(out).unflatten(0, (len(h), -1)).unflatten(2, side).permute(0, 4, 1, 2, 3)


def full(attention: Any, h: Any) -> Any:
    import torch

    side = h.shape[3:]
    tokens = normed(attention, h).permute(0, 2, 3, 4, 1).flatten(2, 3).flatten(0, 1)
    q, k, v = heads(attention, tokens)
    scores = torch.einsum("bhid,bhjd->bhij", q * attention.width**-0.5, k).softmax(dim=-1)
    out = torch.einsum("bhij,bhjd->bhid", scores, v).transpose(1, 2).flatten(2)
    return attention.to_out(out).unflatten(0, (len(h), -1)).unflatten(2, side).permute(0, 4, 1, 2, 3)


SIDES = {"ours": ours, "the reference's way": written_out}


def peak() -> float:
    """MiB this process has had at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def in_child(options: argparse.Namespace, side: str) -> float:
    told = [f"--{name}={getattr(options, name)}" for name in ("dim", "side", "frames", "threads")]
    done = subprocess.run([sys.executable, __file__, *told, "--alone", side], stdout=subprocess.PIPE, check=True)
    return float(json.loads(done.stdout))


def compare(options: argparse.Namespace, peaks: dict[str, float]) -> None:
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    networks = {side: made(options, side)[0] for side in SIDES}
    network, x, t = made(options, "ours")
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        network(x, t)
    flop = counter.get_total_flops()
    print(
        f"dim {options.dim}, {options.frames} frames of {options.side}x{options.side}: {flop / 1e9:.0f} GFLOP a forward"
    )
    answers = {side: run(network, x, t) for side, run in SIDES.items()}
    gap = (answers["ours"] - answers["the reference's way"]).abs().max().item()
    print(f"largest difference of the answers: {gap:.1e} of values up to {answers['ours'].abs().max().item():.2f}")
    times: dict[str, list[float]] = {side: [] for side in SIDES}
    best = 0.0
    square = torch.randn(2048, 2048)
    for _ in range(options.repeats):
        for side, run in SIDES.items():
            began = time.perf_counter()
            run(networks[side], x, t)
            times[side].append(time.perf_counter() - began)
        began = time.perf_counter()
        square @ square
        best = max(best, 2 * 2048**3 / (time.perf_counter() - began))
    print("                      best     median   GFLOP/s  of a matrix product   peak memory beside weights")
    for side, spent in times.items():
        rate = flop / min(spent)
        cost = f"{min(spent):>6.2f} s {statistics.median(spent):>6.2f} s  {rate / 1e9:>6.0f}  {rate / best:>12.0%}"
        print(f"{side:<20} {cost}          {peaks[side]:>12.0f} MiB")


if __name__ == "__main__":
    main()
