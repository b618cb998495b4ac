"""I3D on Kinetics-400 (Carreira and Zisserman 2017), the network that defines FVD: clips in, 400 logits out.

Released weights differ, and so does what is done around them: how frames are brought to 224x224, the epsilon of the
batch norms, the degrees of freedom of covariances. Each way in use is a row of `CONVENTIONS`; distances of two ways do
not compare. Our modules have the names of piergiaj's code; hassony2's are mapped to them.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from difflab import files
from difflab.errors import DifflabError, suggest
from difflab.precision import full_precision
from difflab.score.resize import tf1_bilinear, torch_bilinear

SIZE = 224
DIM = 400
FEWEST_FRAMES = 9  # fewer leave the last average nothing to average

ConventionName = Literal["stylegan-v", "videogpt", "tf"]


@dataclass(frozen=True)
class Convention:
    """One way to FVD. resize: how frames become 224x224; eps: of the batch norms; ddof: of the covariances."""

    resize: Literal["stretch", "crop", "stretch-tf1"]
    eps: float
    ddof: int


CONVENTIONS: dict[ConventionName, Convention] = {
    "stylegan-v": Convention("stretch", 1e-3, 0),
    "videogpt": Convention("crop", 1e-5, 1),
    "tf": Convention("stretch-tf1", 1e-3, 1),
}

# Channels of a Mixed block: its four branches, of which the middle two have a narrow first convolution.
_MIXED = {
    "3b": (192, 64, 96, 128, 16, 32, 32),
    "3c": (256, 128, 128, 192, 32, 96, 64),
    "4b": (480, 192, 96, 208, 16, 48, 64),
    "4c": (512, 160, 112, 224, 24, 64, 64),
    "4d": (512, 128, 128, 256, 24, 64, 64),
    "4e": (512, 112, 144, 288, 32, 64, 64),
    "4f": (528, 256, 160, 320, 32, 128, 128),
    "5b": (832, 256, 160, 320, 32, 128, 128),
    "5c": (832, 384, 192, 384, 48, 128, 128),
}


def _padded(x: Tensor, kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> Tensor:
    """Zeros around (B, C, T, H, W) as TensorFlow's SAME: the output has ceil(n / stride), the odd one comes last."""
    widths: list[int] = []
    for n, k, s in reversed(list(zip(x.shape[2:], kernel, stride, strict=True))):
        total = max((-(-n // s) - 1) * s + k - n, 0)
        widths += [total // 2, total - total // 2]
    return F.pad(x, widths) if any(widths) else x


def _max_pool(x: Tensor, kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> Tensor:
    return F.max_pool3d(_padded(x, kernel, stride), kernel, stride)


class Unit(nn.Module):
    """Convolution without bias, batch norm, ReLU."""

    def __init__(self, c_in: int, c_out: int, kernel: int = 1, stride: int = 1) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(c_in, c_out, kernel, stride, bias=False)
        self.bn: nn.BatchNorm3d | nn.Identity = nn.BatchNorm3d(c_out)
        self.kernel, self.stride = (kernel,) * 3, (stride,) * 3

    def fold(self, eps: float) -> None:
        """Move the normalisation into the convolution, which gains a bias."""
        assert isinstance(self.bn, nn.BatchNorm3d)
        assert self.bn.running_mean is not None
        assert self.bn.running_var is not None
        self.conv3d.weight, self.conv3d.bias = fuse_conv_bn_weights(
            self.conv3d.weight, None, self.bn.running_mean, self.bn.running_var, eps, self.bn.weight, self.bn.bias
        )
        self.bn = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv3d(_padded(x, self.kernel, self.stride))), inplace=True)


class Mixed(nn.Module):
    """1x1x1; 1x1x1, 3x3x3; the same again; pooled 1x1x1, side by side."""

    def __init__(self, c_in: int, a: int, b: int, c: int, d: int, e: int, f: int) -> None:
        super().__init__()
        self.b0 = Unit(c_in, a)
        self.b1a, self.b1b = Unit(c_in, b), Unit(b, c, 3)
        self.b2a, self.b2b = Unit(c_in, d), Unit(d, e, 3)
        self.b3b = Unit(c_in, f)

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.b3b(_max_pool(x, (3, 3, 3), (1, 1, 1)))
        return torch.cat([self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), pooled], dim=1)


class Logits(nn.Module):
    """1x1x1 convolution with a bias, to classes."""

    def __init__(self, c_in: int, classes: int) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(c_in, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv3d(x)


class I3D(nn.Module):
    """The network with its preprocessing; make one with `load_i3d` or `I3D.with_weights`."""

    def __init__(self, convention: ConventionName = "stylegan-v") -> None:
        super().__init__()
        self.convention = convention
        self.Conv3d_1a_7x7 = Unit(3, 64, 7, 2)
        self.Conv3d_2b_1x1 = Unit(64, 64)
        self.Conv3d_2c_3x3 = Unit(64, 192, 3)
        for name, channels in _MIXED.items():
            setattr(self, f"Mixed_{name}", Mixed(*channels))
        self.logits = Logits(1024, DIM)

    @classmethod
    def with_weights(cls, state: Mapping[str, Tensor], convention: ConventionName = "stylegan-v") -> I3D:
        """The network with the weights of `state`, by piergiaj's names or hassony2's, folded, in evaluation mode.

        Raises DifflabError for an unknown convention, and for a tensor that is missing, left over, or misshapen.
        """
        if convention not in CONVENTIONS:
            raise DifflabError(f"FVD has no convention {convention!r}.{suggest(convention, CONVENTIONS)}")
        with torch.device("meta"):
            network = cls(convention)
        expected = network.state_dict()
        counters = {name: torch.zeros((), dtype=torch.int64) for name in expected if name.endswith("batches_tracked")}
        found = counters | {piergiaj(name): value for name, value in state.items()}
        _check(found, expected)
        network.load_state_dict(found, assign=True)
        network.eval().requires_grad_(False)
        for module in network.modules():
            if isinstance(module, Unit):
                module.fold(CONVENTIONS[convention].eps)
        return network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]

    @torch.no_grad()
    def forward(self, clips: Tensor) -> Tensor:
        """FVD's features (B, 400) of clips (B, T, H, W, 3) uint8: logits, averaged over time.

        Raises DifflabError for other arrays, and for fewer than 9 frames.
        """
        with full_precision():
            return self.steps(self.prepare(clips)).mean(dim=2)

    def prepare(self, clips: Tensor) -> Tensor:
        """uint8 (B, T, H, W, 3) -> (B, 3, T, 224, 224) in [-1, 1], by the convention."""
        if clips.dtype != torch.uint8 or clips.ndim != 5 or clips.shape[-1] != 3:
            raise DifflabError(f"I3D takes clips, uint8 (B, T, H, W, 3), but got {clips.dtype} {tuple(clips.shape)}.")
        if clips.shape[1] < FEWEST_FRAMES:
            raise DifflabError(
                f"FVD needs clips of at least {FEWEST_FRAMES} frames, since I3D has no answer for fewer; these have "
                f"{clips.shape[1]}; take longer clips, or the features shapes-clip."
            )
        frames = clips.flatten(0, 1).permute(0, 3, 1, 2).to(self.logits.conv3d.weight)
        x = resized(frames, CONVENTIONS[self.convention].resize) / 127.5 - 1
        return x.unflatten(0, clips.shape[:2]).transpose(1, 2).contiguous(memory_format=torch.channels_last_3d)

    def steps(self, x: Tensor) -> Tensor:
        """(B, 3, T, 224, 224) in [-1, 1] -> logits (B, 400, ceil(T / 8) - 1) over time."""
        x = _max_pool(self.Conv3d_1a_7x7(x), (1, 3, 3), (1, 2, 2))
        x = _max_pool(self.Conv3d_2c_3x3(self.Conv3d_2b_1x1(x)), (1, 3, 3), (1, 2, 2))
        x = _max_pool(self._mixed(x, "3b", "3c"), (3, 3, 3), (2, 2, 2))
        x = _max_pool(self._mixed(x, "4b", "4c", "4d", "4e", "4f"), (2, 2, 2), (2, 2, 2))
        x = F.avg_pool3d(self._mixed(x, "5b", "5c"), (2, 7, 7), stride=1)
        return self.logits(x)[..., 0, 0]

    def _mixed(self, x: Tensor, *names: str) -> Tensor:
        for name in names:
            x = getattr(self, f"Mixed_{name}")(x)
        return x


def resized(frames: Tensor, how: str) -> Tensor:
    """Frames (N, 3, H, W) at 224x224: stretched by the half-pixel or TF1's rule, or by the short side and cropped."""
    if how == "stretch":
        return torch_bilinear(frames, SIZE)
    if how == "stretch-tf1":
        return tf1_bilinear(frames, SIZE)
    height, width = frames.shape[2:]
    short = min(height, width)
    sides = [SIZE if side == short else -(-side * SIZE // short) for side in (height, width)]
    x = F.interpolate(frames, size=sides, mode="bilinear", align_corners=False)
    top, left = (sides[0] - SIZE) // 2, (sides[1] - SIZE) // 2
    return x[:, :, top : top + SIZE, left : left + SIZE]


_BRANCHES = {"branch_0": "b0", "branch_1.0": "b1a", "branch_1.1": "b1b", "branch_2.0": "b2a", "branch_2.1": "b2b",
             "branch_3.1": "b3b"}  # fmt: skip


def piergiaj(name: str) -> str:
    """A weight's name in piergiaj's code, from that in hassony2's; others are kept."""
    name = name.replace("conv3d_0c_1x1.", "logits.").replace(".batch3d.", ".bn.")
    name = re.sub(r"^(conv3d|mixed)_", lambda head: f"{head[0].capitalize()}", name)
    return re.sub(r"branch_\d(\.\d)?(?=\.conv3d|\.bn)", lambda branch: _BRANCHES.get(branch[0], branch[0]), name)


def load_i3d(path: Path, convention: ConventionName = "stylegan-v", device: torch.device | str = "cpu") -> I3D:
    """The network with the weights of a state dict, of which nothing is executed.

    Raises DifflabError for a file that is not there, that is TorchScript, which is code, or that is no I3D.
    """
    if not path.is_file():
        raise DifflabError(f"{path}: no such file; expected the weights of I3D.")
    if _is_torchscript(path):
        raise DifflabError(
            f"{path}: is TorchScript, which is code and is not executed here; if you trust its origin, take the "
            "weights out once by `difflab models unpack FILE --trust`, or give i3d_pretrained_400.pt."
        )
    try:
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # on arbitrary bytes the restricted unpickler trips in any way it likes
        raise DifflabError(f"{path}: cannot be read as a PyTorch state dict; is it another file?") from error
    if not isinstance(state, Mapping) or not all(
        isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()
    ):
        raise DifflabError(f"{path}: holds no state dict; expected the weights of I3D.")
    try:
        return I3D.with_weights(state, convention).to(device)
    except DifflabError as error:
        raise DifflabError(f"{path}: {error}") from error


def unpack_torchscript(source: Path, dest: Path) -> Path:
    """Write the weights of `i3d_torchscript.pt` as a state dict for `load_i3d`; returns `dest`.

    Reading TorchScript may execute code of its author: methods that restore objects run while it loads. Its forward
    pass is never called.

    Raises DifflabError for a file that is no TorchScript, or not of I3D.
    """
    if not source.is_file() or not _is_torchscript(source):
        raise DifflabError(f"{source}: is no TorchScript; expected i3d_torchscript.pt.")
    try:
        state = torch.jit.load(str(source), map_location="cpu").state_dict()
    except Exception as error:  # the interpreter raises whatever the file's code makes it raise
        raise DifflabError(f"{source}: cannot be read as TorchScript; is the download whole?") from error
    try:
        I3D.with_weights(state, "stylegan-v")
    except DifflabError as error:
        raise DifflabError(f"{source}: {error}") from error
    with files.writing(dest) as file:
        torch.save({name: value.clone() for name, value in state.items()}, file)
    return dest


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any("/code/" in name for name in archive.namelist())


def _check(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    for name, value in expected.items():
        if name not in found:
            raise DifflabError(f"this is no I3D: the weight {name} is missing.")
        if found[name].shape != value.shape:
            raise DifflabError(
                f"this is no I3D of Kinetics-400: the weight {name} has shape {tuple(found[name].shape)}, not "
                f"{tuple(value.shape)}."
            )
    if extra := sorted(found.keys() - expected.keys()):
        raise DifflabError(f"this is no I3D: it has a weight {extra[0]} more.")
