"""Where this process computes when nobody says."""

from __future__ import annotations

import torch


def home() -> torch.device:
    """Its GPU, if it has one, else its CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
