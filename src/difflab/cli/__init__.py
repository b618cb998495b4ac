"""The command line. Commands parse, call and print; what they do lives elsewhere and is imported when they run."""

from __future__ import annotations

import sys
import warnings
from typing import Any


def main() -> None:
    """Entry point of `difflab`: a user's mistake is one sentence on stderr and exit code 2."""
    from difflab.cli.app import app
    from difflab.errors import DifflabError

    warnings.showwarning = _show_warning  # type: ignore[assignment]
    try:
        app()
    except DifflabError as error:
        print(f"difflab: {error}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:  # the reader of our output has gone, as in `difflab models | head`
        sys.stderr.close()
        sys.exit(1)


def _show_warning(message: Warning | str, category: type[Warning], *_: Any) -> None:
    """Our own warnings as one line; what libraries warn of is for developers."""
    if issubclass(category, UserWarning) and not issubclass(category, (FutureWarning, DeprecationWarning)):
        print(f"difflab: note: {message}", file=sys.stderr)
