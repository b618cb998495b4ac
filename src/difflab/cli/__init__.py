"""The command line. Commands parse, call and print; what they do lives elsewhere and is imported when they run."""

from __future__ import annotations

import signal
import sys
import warnings
from typing import Any

_INTERRUPTED = 130  # 128 + SIGINT, as shells count


def main() -> None:
    """Entry point of `difflab`: a user's mistake is one sentence on stderr and exit code 2."""
    from difflab.errors import DifflabError

    warnings.showwarning = _show_warning  # type: ignore[assignment]
    try:
        from difflab.cli.app import app

        app()
    except KeyboardInterrupt:
        _stopped()
    except SystemExit as end:
        if end.code == _INTERRUPTED:  # typer has caught the interrupt
            _stopped()
        raise
    except DifflabError as error:
        print(f"difflab: {error}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:  # the reader of our output has gone, as in `difflab models | head`
        sys.stderr.close()
        sys.exit(1)


def _stopped() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C while the interpreter shuts down is not news
    print("difflab: stopped.", file=sys.stderr)
    sys.exit(_INTERRUPTED)


def _show_warning(message: Warning | str, category: type[Warning], *_: Any) -> None:
    """Our own warnings as one line; what libraries warn of is for developers."""
    if issubclass(category, UserWarning) and not issubclass(category, (FutureWarning, DeprecationWarning)):
        print(f"difflab: note: {message}", file=sys.stderr)
