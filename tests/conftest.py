"""Options and fixtures for all tests."""

from __future__ import annotations

from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--golden",
        default=str(HERE / "golden"),
        help="folder with golden cases; the small copies in tests/golden by default",
    )
