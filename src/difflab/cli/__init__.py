"""The command line. Commands parse, call and print; what they do lives elsewhere and is imported when they run."""

from __future__ import annotations

import signal
import sys
import warnings
from typing import Any

_INTERRUPTED = 130  # 128 + SIGINT, as shells count
_NAME_SHOWN = 120  # characters of a path in a message


def main() -> None:
    """Entry point of `difflab`: whatever goes wrong outside of difflab is one sentence on stderr and exit code 2."""
    from typer import Abort, TyperException

    from difflab.errors import DifflabError, first_line

    warnings.showwarning = _show_warning  # type: ignore[assignment]
    try:
        from difflab.cli.app import app

        code = app(prog_name="difflab", standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()  # a full disk behind `> file` should be known here
    except (KeyboardInterrupt, Abort):
        code = _INTERRUPTED
    except TyperException as error:
        _refuse(_misuse(error))
    except DifflabError as error:
        _refuse(str(error))
    except BrokenPipeError:  # the reader of our output has gone, as in `difflab models | head`
        sys.stderr.close()
        sys.exit(1)
    except OSError as error:
        _refuse(_refusal(error))
    except (MemoryError, RuntimeError) as error:
        if not _memory_ran_out(error):
            raise
        _refuse(f"the memory does not suffice ({first_line(error)}); use a smaller --batch or fewer --frames.")
    if code == _INTERRUPTED:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C while the interpreter shuts down is not news
        print("difflab: stopped.", file=sys.stderr)
    sys.exit(code)


def _refuse(sentence: str | None) -> None:
    if sentence and sys.stderr is not None:
        print(f"difflab: {sentence}", file=sys.stderr)
    sys.exit(2)


def _misuse(error: Any) -> str | None:
    """What is wrong with the words of the command line; None where the help has been shown instead."""
    said = error.format_message().rstrip(".")
    command = error.ctx.command_path if getattr(error, "ctx", None) else "difflab"
    return f"{said}; see `{command} --help`." if said else None


def _refusal(error: OSError) -> str:
    """What the operating system refuses, where no one who knew more has said it."""
    name = str(error.filename or "the output")
    shown = name if len(name) <= _NAME_SHOWN else f"{name[:_NAME_SHOWN]}…"
    return (
        f"{shown}: the system says {error.strerror or error!s}; check the path, its rights and the space on the disk."
    )


def _memory_ran_out(error: Exception) -> bool:
    """numpy raises MemoryError; torch a RuntimeError of its own on a GPU, a plain one on the CPU."""
    return isinstance(error, MemoryError) or "OutOfMemory" in type(error).__name__ or "allocate memory" in str(error)


def _show_warning(message: Warning | str, category: type[Warning], *_: Any) -> None:
    """Our own warnings as one line; what libraries warn of is for developers."""
    if issubclass(category, UserWarning) and not issubclass(category, (FutureWarning, DeprecationWarning)):
        print(f"difflab: note: {message}", file=sys.stderr)
