"""The one exception for mistakes of the user.

A `DifflabError` carries one sentence: the thing, what was found, what was expected, what to do. The command line prints
it without a traceback and exits with code 2; from Python it is raised as it is. Everything else that is raised is a
fault of ours and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

DOCS = "docs"  # where the pages lie: in the repository, of which the site is made


class DifflabError(ValueError):
    """A user's mistake, told in one sentence."""


def first_line(error: Exception) -> str:
    """What an exception says, as far as it goes into a sentence."""
    return str(error).splitlines()[0].strip() if str(error) else "no details"


def see(page: str) -> str:
    """The end of a sentence that leads to a page of the documentation, such as "how-to/missing"."""
    return f"see {DOCS}/{page}.md"


def suggest(name: str, known: Iterable[str]) -> str:
    """`" Did you mean 'eta'?"` when a known name is close to `name`, else the list of known names."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return f" Did you mean {close[0]!r}?" if close else f" Known: {', '.join(names)}."
