"""How the cases of ermongroup/ddim and of guided-diffusion state what is close enough."""

from __future__ import annotations

from typing import Any

import numpy as np


def close(name: str, found: Any, expected: np.ndarray, tolerance: float) -> None:
    """max |found - expected| <= tolerance * std(expected)"""
    gap = np.abs(np.asarray(found, np.float64) - expected).max()
    assert gap <= tolerance * expected.std(), (
        f"{name}: off by {gap / expected.std():.2e} of its std, allowed {tolerance:.0e}"
    )
