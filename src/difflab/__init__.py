"""difflab: a laboratory for diffusion models.

The public names below are imported when they are first used, so that `import difflab` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "DifflabError": "difflab.errors",
    "Model": "difflab.zoo.model",
    "Result": "difflab.study.result",
    "Study": "difflab.study.spec",
    "build_report": "difflab.report.page",
    "convert": "difflab.zoo.convert",
    "load": "difflab.zoo.load",
    "open_data": "difflab.data.sources",
    "run_study": "difflab.study.run",
    "sample": "difflab.zoo.sampling",
    "score": "difflab.study.measure",
    "stats": "difflab.study.measure",
}

__all__ = ["__version__", *sorted(_HOME)]

if TYPE_CHECKING:
    from difflab.data.sources import open_data as open_data
    from difflab.errors import DifflabError as DifflabError
    from difflab.report.page import build_report as build_report
    from difflab.study.measure import score as score
    from difflab.study.measure import stats as stats
    from difflab.study.result import Result as Result
    from difflab.study.run import run_study as run_study
    from difflab.study.spec import Study as Study
    from difflab.zoo.convert import convert as convert
    from difflab.zoo.load import load as load
    from difflab.zoo.model import Model as Model
    from difflab.zoo.sampling import sample as sample


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'difflab' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
