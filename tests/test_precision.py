from __future__ import annotations

import torch

from difflab.precision import full_precision


def test_cudnn_stays_on_without_tf32_and_comes_back_as_it_was() -> None:
    def state() -> tuple[bool, bool, bool]:
        flags = torch.backends.cudnn
        return flags.enabled, flags.allow_tf32, flags.deterministic

    before = state()
    with full_precision():
        assert state() == (True, False, True)
    assert state() == before
