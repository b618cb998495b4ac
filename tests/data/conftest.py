"""Tiny images made on the spot."""

from __future__ import annotations

import io
from collections.abc import Callable

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
