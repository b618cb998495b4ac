"""Collects golden cases: every `case.json` below `--golden DIR`, by default the small copies beside this file."""

from __future__ import annotations

from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case_folder" in metafunc.fixturenames:
        root = Path(metafunc.config.getoption("--golden"))
        folders = sorted(path.parent for path in root.rglob("case.json"))
        metafunc.parametrize("case_folder", folders, ids=[str(f.relative_to(root)) for f in folders])
