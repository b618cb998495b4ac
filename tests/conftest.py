"""Options and fixtures for all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--golden",
        default=str(HERE / "golden"),
        help="folder with golden cases; the small copies in tests/golden by default",
    )


@pytest.fixture
def shared_data() -> Path:
    """The folder of real samples: `$DIFFLAB_SHARED_DATA`, or shared/data beside the repository."""
    beside = HERE.parents[1] / "shared" / "data"
    path = Path(os.environ.get("DIFFLAB_SHARED_DATA") or beside)
    if not path.is_dir():
        pytest.skip("the real data samples are not here (set DIFFLAB_SHARED_DATA)")
    return path
