"""Tiny images made on the spot, and the way to the optional real samples."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

Encode = Callable[..., bytes]


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def encode() -> Encode:
    """Encode an array as the bytes of an image file: encode(array, "PNG", **options)."""

    def encoded(array: np.ndarray, kind: str = "PNG", **options: object) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(array).save(buffer, kind, **options)
        return buffer.getvalue()

    return encoded


@pytest.fixture
def shared_data() -> Path:
    """The folder of real samples: `$DIFFLAB_SHARED_DATA`, or shared/data beside the repository."""
    beside = Path(__file__).parents[3] / "shared" / "data"
    path = Path(os.environ.get("DIFFLAB_SHARED_DATA") or beside)
    if not path.is_dir():
        pytest.skip("the real data samples are not here (set DIFFLAB_SHARED_DATA)")
    return path
