"""Networks of transformers and diffusers: from a folder, from the Hugging Face hub's cache on this machine, or by
download."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from importlib.util import find_spec
from logging import ERROR, getLogger
from typing import Any, TypeVar

from difflab.errors import DifflabError, first_line, see

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_REASON = 200  # characters of a library's own words

Opened = TypeVar("Opened")


class UnreadableError(DifflabError):
    """What is asked for is not there, or damaged."""


def is_hub_id(source: str) -> bool:
    """Whether `source` may name a model of the hub, as owner/name."""
    return _HUB_ID.fullmatch(source) is not None


def need(library: str, source: str, what: str) -> None:
    """Raise DifflabError unless the library that opens `source`, which is `what`, is installed."""
    if find_spec(library) is None:
        raise DifflabError(
            f"{source}: {what} needs {library}, which is not installed; install it with "
            f"`pip install 'difflab[latent]'`; {see('how-to/missing')}."
        )


def from_hub(source: str, what: str, open_it: Callable[..., Opened]) -> Opened:
    """What `open_it(source)` gives, from the cache if it is there, else by download.

    Raises DifflabError, which calls it `what`, where neither has it.
    """
    with suppress(UnreadableError):
        return open_it(source, local_files_only=True)
    try:
        return open_it(source)
    except UnreadableError as error:
        reason = _said(error.__cause__) if isinstance(error.__cause__, Exception) else "no details"
        raise DifflabError(
            f"{source}: this {what} is not in the Hugging Face hub's cache on this machine, and cannot be fetched now "
            f"({reason}); connect to the internet, or give the path of a folder that holds it; {see('how-to/missing')}."
        ) from error


@contextmanager
def reading(library: str, source: str, what: str, whole: str) -> Iterator[None]:
    """Keeps a library quiet while it reads `source`, and makes one sentence of what it raises.

    whole: what a readable folder would be. Raises UnreadableError.
    """
    logging = import_module(f"{library}.utils").logging
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    getLogger("huggingface_hub").setLevel(ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of libraries, to each other
            yield
    except DifflabError:
        raise
    except Exception as error:  # a damaged file can make the reader raise nearly anything
        raise UnreadableError(
            f"{source}: this {what} cannot be read ({_said(error)}); give {whole}, or fetch it again."
        ) from error


def complete(kind: Any, source: str, **options: Any) -> Any:
    """A network of a class of transformers, all of whose weights are in `source`: it would draw others at random.

    Raises ValueError where some are missing.
    """
    network, found = kind.from_pretrained(source, use_safetensors=True, output_loading_info=True, **options)
    if found["missing_keys"]:
        raise ValueError(f"the weight {min(found['missing_keys'])} is missing")
    return network


def _said(error: Exception) -> str:
    return first_line(error)[:_REASON]
