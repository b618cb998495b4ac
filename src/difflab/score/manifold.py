"""Which samples lie on which manifold: precision and recall (Kynkaanniemi et al. 2019), density and coverage (Naeem et
al. 2020).

The manifold of a set is the union of balls around its points, each reaching to the k-th nearest other point of the set.
Distances are computed in blocks, so memory does not grow with the sets.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from difflab.errors import DifflabError
from difflab.score.moments import checked_features

_ROWS, _COLUMNS = 2048, 8192  # 64 MiB of float32 distances at a time
GROUPS = 10  # of generated samples, each left out in turn, to see how much their draw matters
_SEEN = (
    24  # nearest neighbours looked at where a group is left out: with fewer than k of them outside it, the last counts
)


@dataclass(frozen=True)
class Manifolds:
    """How generated and real samples lie on each other's manifolds.

    on_real (n,): whether a generated sample lies in a ball of a real one; on_fake (m,): whether a real sample lies in a
    ball of a generated one; balls (n,): how many real balls hold a generated sample; near (m,): whether a real sample
    has a generated one in its own ball; recall_without, coverage_without (GROUPS,): the shares of real samples when a
    group of generated ones, of consecutive rows, is left out.
    """

    k: int
    on_real: np.ndarray
    on_fake: np.ndarray
    balls: np.ndarray
    near: np.ndarray
    recall_without: np.ndarray
    coverage_without: np.ndarray

    @property
    def precision(self) -> float:
        """Share of generated samples on the real manifold: fidelity."""
        return float(self.on_real.mean())

    @property
    def recall(self) -> float:
        """Share of real samples on the generated manifold: diversity."""
        return float(self.on_fake.mean())

    @property
    def density(self) -> float:
        """Mean over generated samples of the real balls that hold them, over k; may exceed 1."""
        return float(self.balls.mean() / self.k)

    @property
    def coverage(self) -> float:
        """Share of real samples with a generated one in their own ball."""
        return float(self.near.mean())


def manifolds(
    real: np.ndarray,
    fake: np.ndarray,
    k: int = 3,
    *,
    strict: bool = False,
    reach: np.ndarray | None = None,
    device: str | torch.device = "cpu",
) -> Manifolds:
    """Compare two sets of features, float32 or float64 as they come.

    Args:
        real: (m, d), more than k rows.
        fake: (n, d), more than k rows.
        k: whose nearest other point a ball reaches to; 3 for precision and recall, 5 for density and coverage.
        strict: whether a point on a ball's surface is outside, as prdc has it, or inside, as ADM's evaluator does.
        reach: (m,) what `reaches(real, k)` gives, where it is known already.
        device: where distances are computed.

    Raises DifflabError for too few rows, other widths, values that are not finite.
    """
    for name, features in (("reference", real), ("samples", fake)):
        if len(checked_features(features)) <= k:
            raise DifflabError(
                f"precision and its like need more than {k} samples on each side, but the {name} are {len(features)}."
            )
    if real.shape[1] != fake.shape[1]:
        raise DifflabError(
            f"The two sides have {fake.shape[1]} and {real.shape[1]} features; both must come from the same network."
        )
    x, y = (torch.from_numpy(np.ascontiguousarray(part)).to(device) for part in (real, fake))
    reach_x = _nearest(x, k)[0][:, -1] if reach is None else torch.from_numpy(reach).to(device)
    group = torch.arange(len(y), device=device) * GROUPS // len(y)
    reach_y, reach_without = _reaches(y, k, group)  # (n,), (n, GROUPS)
    inside = torch.lt if strict else torch.le
    balls = torch.zeros(len(y), dtype=torch.int64, device=device)
    on_fake = torch.zeros(len(x), dtype=torch.bool, device=device)
    on_without = torch.zeros((GROUPS, len(x)), dtype=torch.bool, device=device)
    nearest = torch.full((GROUPS, len(x)), torch.inf, dtype=x.dtype, device=device)  # among each group's samples
    for rows, columns, distance in _blocks(y, x):
        balls[rows] += inside(distance, reach_x[columns]).sum(1)
        on_fake[columns] |= inside(distance, reach_y[rows, None]).any(0)
        for g in range(GROUPS):
            on_without[g, columns] |= inside(distance, reach_without[rows, g, None]).any(0)
        for g in group[rows].unique():
            least = distance[group[rows] == g].amin(0)
            nearest[g, columns] = torch.minimum(nearest[g, columns], least)
    others = torch.stack([nearest[torch.arange(GROUPS, device=device) != g].amin(0) for g in range(GROUPS)])
    return Manifolds(
        k,
        (balls > 0).cpu().numpy(),
        on_fake.cpu().numpy(),
        balls.cpu().numpy(),
        inside(nearest.amin(0), reach_x).cpu().numpy(),
        on_without.float().mean(1).cpu().numpy(),
        inside(others, reach_x).float().mean(1).cpu().numpy(),
    )


def reaches(features: np.ndarray, k: int, device: str | torch.device = "cpu") -> np.ndarray:
    """(n,) squared distance of each row to its k-th nearest other row."""
    x = torch.from_numpy(np.ascontiguousarray(checked_features(features))).to(device)
    return _nearest(x, k)[0][:, -1].cpu().numpy()


def _reaches(y: Tensor, k: int, group: Tensor) -> tuple[Tensor, Tensor]:
    """(n,) the reach of each row, and (n, GROUPS) that without each group; a row that is left out reaches nothing."""
    distance, index = _nearest(y, min(_SEEN, len(y) - 1))
    without = torch.full((len(y), GROUPS), -1.0, dtype=y.dtype, device=y.device)
    for g in range(GROUPS):
        kept = group[index] != g  # (n, seen)
        place = (kept.cumsum(1) < k).sum(1).clamp_max(distance.shape[1] - 1)  # of the k-th neighbour that is kept
        without[:, g] = torch.where(group == g, without[:, g], distance.gather(1, place[:, None])[:, 0])
    return distance[:, k - 1], without


def _nearest(x: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """(n, count) squared distances of each row to its nearest other rows, ascending, and which rows these are."""
    found = torch.full((len(x), count), torch.inf, dtype=x.dtype, device=x.device)
    index = torch.zeros((len(x), count), dtype=torch.int64, device=x.device)
    for rows, columns, distance in _blocks(x, x):
        first = max(rows.start, columns.start)
        own = torch.arange(first, max(first, min(rows.stop, columns.stop)), device=x.device)  # none where blocks part
        distance[own - rows.start, own - columns.start] = torch.inf
        near, at = distance.topk(min(count, distance.shape[1]), dim=1, largest=False)
        both, which = torch.cat([found[rows], near], dim=1), torch.cat([index[rows], at + columns.start], dim=1)
        found[rows], order = both.topk(count, dim=1, largest=False)
        index[rows] = which.gather(1, order)
    return found, index


def _blocks(a: Tensor, b: Tensor) -> Iterator[tuple[slice, slice, Tensor]]:
    """Squared distances between rows of `a` and of `b`, a block at a time, with the rows and columns it covers."""
    square_a, square_b = a.square().sum(1), b.square().sum(1)
    for top in range(0, len(a), _ROWS):
        rows = slice(top, min(top + _ROWS, len(a)))
        for left in range(0, len(b), _COLUMNS):
            columns = slice(left, min(left + _COLUMNS, len(b)))
            distance = torch.addmm(
                square_b[columns].expand(rows.stop - rows.start, -1), a[rows], b[columns].T, alpha=-2
            )
            yield rows, columns, distance.add_(square_a[rows, None]).clamp_min_(0.0)
