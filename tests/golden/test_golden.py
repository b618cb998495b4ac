"""Numbers of the reference implementations, met within the tolerance that each case states.

What to run is decided from what `case.json` and the arrays say, so a new case of a known kind needs no new code. A kind
that nobody knows fails.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

HERE = Path(__file__).parent


def _beside(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"golden_{name}", HERE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


fill = _beside("recipe").fill
KINDS = [
    _beside("kinds_metrics"),
    _beside("kinds_ddim"),
    _beside("kinds_adm"),
    _beside("kinds_solvers"),
    _beside("kinds_dit"),
    _beside("kinds_vdm"),
]


def test_golden(case_folder: Path) -> None:
    case = json.loads((case_folder / "case.json").read_text())
    for kinds in KINDS:
        if (run := kinds.recognise(case, case_folder, fill)) is not None:
            run()
            return
    pytest.fail(f"no runner knows this kind of case; case.json has {sorted(case)}")
