"""The network that FID is defined by: Inception-v3 of 2015-12-05, with its resize and range.

Three things differ from the Inception-v3 of the textbooks and move the score: average pools do not count their padding,
the last block pools with a maximum, and there are 1008 outputs. Names and shapes are those of the state dict that
pytorch-fid and torch-fidelity share. Batch normalisation (eps 0.001) is folded into the convolutions once the weights
are in, in their own precision: the network only ever evaluates, and takes one pass over memory less for each layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from difflab.errors import DifflabError, suggest
from difflab.files import sha256
from difflab.precision import full_precision
from difflab.score.resize import tf1_bilinear, torch_bilinear

WEIGHTS_FILE = "pt_inception-2015-12-05-6726825d.pth"
WEIGHTS_URL = f"https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/{WEIGHTS_FILE}"
WEIGHTS_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
SIZE = 299

Resize = Literal["tf1_bilinear", "torch_bilinear"]

# Tap -> the stage it is read from.
_STAGE = {
    "64": "pool_1",
    "192": "pool_2",
    "spatial": "Mixed_6c",
    "768": "Mixed_6e",
    "2048": "Mixed_7c",
    "logits_unbiased": "Mixed_7c",
    "logits": "Mixed_7c",
}


class Unit(nn.Module):
    """Convolution without bias, batch normalisation, ReLU."""

    def __init__(
        self, cin: int, cout: int, kernel: int | tuple[int, int], stride: int = 1, padding: int | tuple[int, int] = 0
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(cin, cout, kernel, stride, padding, bias=False)
        self.bn: nn.BatchNorm2d | nn.Identity = nn.BatchNorm2d(cout, eps=0.001)

    def fold(self) -> None:
        """Move the normalisation into the convolution, which gains a bias."""
        assert isinstance(self.bn, nn.BatchNorm2d)
        self.conv = fuse_conv_bn_eval(self.conv, self.bn)
        self.bn = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)), inplace=True)


class MixedA(nn.Module):
    """35x35: 1x1, 5x5, double 3x3 and pooled branches."""

    def __init__(self, cin: int, pooled: int) -> None:
        super().__init__()
        self.branch1x1 = Unit(cin, 64, 1)
        self.branch5x5_1 = Unit(cin, 48, 1)
        self.branch5x5_2 = Unit(48, 64, 5, padding=2)
        self.branch3x3dbl_1 = Unit(cin, 64, 1)
        self.branch3x3dbl_2 = Unit(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = Unit(96, 96, 3, padding=1)
        self.branch_pool = Unit(cin, pooled, 1)

    def forward(self, x: Tensor) -> Tensor:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat(
            [self.branch1x1(x), self.branch5x5_2(self.branch5x5_1(x)), double, self.branch_pool(_average(x))], dim=1
        )


class MixedB(nn.Module):
    """35x35 -> 17x17."""

    def __init__(self, cin: int) -> None:
        super().__init__()
        self.branch3x3 = Unit(cin, 384, 3, stride=2)
        self.branch3x3dbl_1 = Unit(cin, 64, 1)
        self.branch3x3dbl_2 = Unit(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = Unit(96, 96, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), double, F.max_pool2d(x, 3, stride=2)], dim=1)


class MixedC(nn.Module):
    """17x17: 1x1, 7x7 in two and in four separable pieces, pooled."""

    def __init__(self, cin: int, inner: int) -> None:
        super().__init__()
        self.branch1x1 = Unit(cin, 192, 1)
        self.branch7x7_1 = Unit(cin, inner, 1)
        self.branch7x7_2 = Unit(inner, inner, (1, 7), padding=(0, 3))
        self.branch7x7_3 = Unit(inner, 192, (7, 1), padding=(3, 0))
        self.branch7x7dbl_1 = Unit(cin, inner, 1)
        self.branch7x7dbl_2 = Unit(inner, inner, (7, 1), padding=(3, 0))
        self.branch7x7dbl_3 = Unit(inner, inner, (1, 7), padding=(0, 3))
        self.branch7x7dbl_4 = Unit(inner, inner, (7, 1), padding=(3, 0))
        self.branch7x7dbl_5 = Unit(inner, 192, (1, 7), padding=(0, 3))
        self.branch_pool = Unit(cin, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        single = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        return torch.cat([self.branch1x1(x), single, double, self.branch_pool(_average(x))], dim=1)


class MixedD(nn.Module):
    """17x17 -> 8x8."""

    def __init__(self, cin: int) -> None:
        super().__init__()
        self.branch3x3_1 = Unit(cin, 192, 1)
        self.branch3x3_2 = Unit(192, 320, 3, stride=2)
        self.branch7x7x3_1 = Unit(cin, 192, 1)
        self.branch7x7x3_2 = Unit(192, 192, (1, 7), padding=(0, 3))
        self.branch7x7x3_3 = Unit(192, 192, (7, 1), padding=(3, 0))
        self.branch7x7x3_4 = Unit(192, 192, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        wide = self.branch7x7x3_4(self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x))))
        return torch.cat([self.branch3x3_2(self.branch3x3_1(x)), wide, F.max_pool2d(x, 3, stride=2)], dim=1)


class MixedE(nn.Module):
    """8x8: branches that end in 1x3 and 3x1 side by side. The first of the two pools with a mean, the second with a
    maximum: thought a slip in the original graph, but part of the score."""

    def __init__(self, cin: int, pool: Literal["average", "max"]) -> None:
        super().__init__()
        self.branch1x1 = Unit(cin, 320, 1)
        self.branch3x3_1 = Unit(cin, 384, 1)
        self.branch3x3_2a = Unit(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3_2b = Unit(384, 384, (3, 1), padding=(1, 0))
        self.branch3x3dbl_1 = Unit(cin, 448, 1)
        self.branch3x3dbl_2 = Unit(448, 384, 3, padding=1)
        self.branch3x3dbl_3a = Unit(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3dbl_3b = Unit(384, 384, (3, 1), padding=(1, 0))
        self.branch_pool = Unit(cin, 192, 1)
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        single = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        pooled = _average(x) if self.pool == "average" else F.max_pool2d(x, 3, stride=1, padding=1)
        return torch.cat(
            [
                self.branch1x1(x),
                self.branch3x3_2a(single),
                self.branch3x3_2b(single),
                self.branch3x3dbl_3a(double),
                self.branch3x3dbl_3b(double),
                self.branch_pool(pooled),
            ],
            dim=1,
        )


class InceptionFID(nn.Module):
    """FID's Inception with its own preprocessing; make one with `load_inception` or `InceptionFID.with_weights`.

    Attributes:
        resize: "tf1_bilinear" with (x - 128) / 128, the original and the rule of published scores, or "torch_bilinear"
            with 2 x / 255 - 1, as in pytorch-fid. Scores of the two do not compare.
    """

    def __init__(self, resize: Resize = "tf1_bilinear") -> None:
        super().__init__()
        self.resize = resize
        self.Conv2d_1a_3x3 = Unit(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = Unit(32, 32, 3)
        self.Conv2d_2b_3x3 = Unit(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = Unit(64, 80, 1)
        self.Conv2d_4a_3x3 = Unit(80, 192, 3)
        self.Mixed_5b = MixedA(192, 32)
        self.Mixed_5c = MixedA(256, 64)
        self.Mixed_5d = MixedA(288, 64)
        self.Mixed_6a = MixedB(288)
        self.Mixed_6b = MixedC(768, 128)
        self.Mixed_6c = MixedC(768, 160)
        self.Mixed_6d = MixedC(768, 160)
        self.Mixed_6e = MixedC(768, 192)
        self.Mixed_7a = MixedD(768)
        self.Mixed_7b = MixedE(1280, "average")
        self.Mixed_7c = MixedE(2048, "max")
        self.fc = nn.Linear(2048, 1008)

    @classmethod
    def with_weights(
        cls, state: Mapping[str, Tensor], resize: Resize = "tf1_bilinear", dtype: torch.dtype = torch.float32
    ) -> InceptionFID:
        """The network with the weights of `state`, folded, in evaluation mode.

        Args:
            state: the 566 tensors by their torchvision names; the `num_batches_tracked` counters may be absent.
            resize: see the class.
            dtype: torch.float32 or torch.float64, of weights, resize and result.

        Raises:
            DifflabError: a tensor is missing, left over, or of another shape.
        """
        with torch.device("meta"):
            network = cls(resize)
        expected = network.state_dict()
        state = {key: torch.zeros(()) for key in expected if _is_counter(key)} | dict(state)
        _check_keys(state, expected)
        network.load_state_dict({key: value.to(dtype) for key, value in state.items()}, assign=True)
        network.eval().requires_grad_(False)
        for module in network.modules():
            if isinstance(module, Unit):
                module.fold()
        # Interleaved channels make the convolutions about 1.4 times as fast on a CPU.
        return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @torch.no_grad()
    def forward(self, images: Tensor, taps: tuple[str, ...] = ("2048",)) -> dict[str, Tensor]:
        """Features of uint8 `images` (B, 3, H, W) at the taps asked for; later layers than needed do not run.

        Taps: "64", "192", "768", "2048" are spatial means (B, that many); "spatial" (B, 2023) holds the first seven
        channels of Mixed_6d.branch1x1 in the order row, column, channel (sFID); "logits_unbiased" (B, 1008) is what the
        Inception Score uses, "logits" adds the bias of the last layer.

        Raises:
            DifflabError: an unknown tap, or images that are not uint8 (B, 3, H, W).
        """
        for tap in taps:
            if tap not in _STAGE:
                raise DifflabError(f"Inception has no tap {tap!r}.{suggest(tap, _STAGE)}")
        found: dict[str, Tensor] = {}
        with full_precision():
            for stage, x in self._stages(self.prepare(images)):
                found |= {tap: self._read(tap, x) for tap in taps if _STAGE[tap] == stage}
                if len(found) == len(set(taps)):
                    break
        return found

    def prepare(self, images: Tensor) -> Tensor:
        """uint8 (B, 3, H, W) -> network input (B, 3, 299, 299), resized before it is brought to about [-1, 1]."""
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
            raise DifflabError(
                f"Inception takes uint8 images of shape (B, 3, H, W), but got {images.dtype} {tuple(images.shape)}."
            )
        x = images.to(self.fc.weight)
        if self.resize == "tf1_bilinear":
            x = (tf1_bilinear(x, SIZE) - 128) / 128
        else:
            x = torch_bilinear(x / 255, SIZE) * 2 - 1
        return x.contiguous(memory_format=torch.channels_last)

    def _stages(self, x: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Runs the network as far as the caller listens; spatial sizes are 73, 35, 17, 17, 8."""
        x = F.max_pool2d(self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x))), 3, stride=2)
        yield "pool_1", x
        x = F.max_pool2d(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x)), 3, stride=2)
        yield "pool_2", x
        x = self.Mixed_6a(self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(x))))
        x = self.Mixed_6c(self.Mixed_6b(x))
        yield "Mixed_6c", x
        x = self.Mixed_6e(self.Mixed_6d(x))
        yield "Mixed_6e", x
        yield "Mixed_7c", self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x)))

    def _read(self, tap: str, x: Tensor) -> Tensor:
        if tap == "spatial":
            return self.Mixed_6d.branch1x1(x)[:, :7].permute(0, 2, 3, 1).flatten(1)
        pooled = x.mean(dim=(2, 3))
        if tap == "logits_unbiased":
            return F.linear(pooled, self.fc.weight)
        return self.fc(pooled) if tap == "logits" else pooled


def load_inception(
    path: Path,
    *,
    resize: Resize = "tf1_bilinear",
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    check: bool = True,
) -> InceptionFID:
    """The network with the weights of the file `path`, of which nothing is executed.

    Args:
        path: `WEIGHTS_FILE`, or a file with the same tensors.
        resize, dtype: see `InceptionFID`.
        device: where the network is to run.
        check: refuse any other bytes than the published ones; what other weights give is not FID.

    Raises:
        DifflabError: no such file, other bytes, not a file of tensors, other tensors than expected.
    """
    if not path.is_file():
        raise DifflabError(f"{path}: no such file; the Inception weights come from {WEIGHTS_URL}.")
    if check and (found := sha256(path)) != WEIGHTS_SHA256:
        raise DifflabError(
            f"{path}: SHA-256 {found[:12]}.. is not that of the FID weights ({WEIGHTS_SHA256[:12]}..); "
            f"download the file again from {WEIGHTS_URL}."
        )
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # on arbitrary bytes the restricted unpickler trips in any way it likes
        raise DifflabError(
            f"{path}: cannot be read as a PyTorch state dict; download it from {WEIGHTS_URL}."
        ) from error
    if not (isinstance(state, dict) and all(isinstance(value, Tensor) for value in state.values())):
        raise DifflabError(f"{path}: holds something else than a state dict of tensors; expected {WEIGHTS_FILE}.")
    try:
        return InceptionFID.with_weights(state, resize, dtype).to(device)
    except DifflabError as error:
        raise DifflabError(f"{path}: {error}") from error


def _average(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


def _is_counter(key: str) -> bool:
    return key.endswith("num_batches_tracked")


def _check_keys(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    missing, extra = sorted(expected.keys() - state.keys()), sorted(state.keys() - expected.keys())
    if missing or extra:
        named = [
            f"{len(keys)} {what} (first {keys[0]!r})"
            for keys, what in ((missing, "missing"), (extra, "unknown"))
            if keys
        ]
        raise DifflabError(
            f"These are not the weights of FID's Inception: {' and '.join(named)} of {len(expected)} tensors."
        )
    for key, value in state.items():
        if value.shape != expected[key].shape:
            raise DifflabError(
                f"These are not the weights of FID's Inception: {key!r} has shape {tuple(value.shape)}, "
                f"expected {tuple(expected[key].shape)}."
            )
