"""Where results lie: folders and files on this machine, and in object stores, such as `s3://bucket/run`.

A local place is a `pathlib.Path`; any other is a `UPath`, which answers to the same names. Servers and credentials are
what fsspec and the store's library find: the environment (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, ..) and their files.
"""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from difflab.errors import DifflabError, see, suggest

if TYPE_CHECKING:
    from upath import UPath

    Place: TypeAlias = Path | UPath
else:
    Place = Any  # importing UPath takes 0.15 s, which nobody should wait for who keeps results on a disk

# Stores that show an object whole or not at all, so that half a file never counts, and the library each needs.
STORES = {
    "s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs", "abfss": "adlfs",
    "memory": "fsspec",
}  # fmt: skip
_ADDRESS = re.compile(r"(?P<store>\w[\w+.-]+):(?P<slashes>//?).*", re.DOTALL)


def place(text: str | Place) -> Place:
    """The place that `text` names: `folder/file` on this machine, or `s3://bucket/folder/file`.

    Raises DifflabError for an address whose store is not known, names no bucket, or whose library is not installed.
    """
    if not isinstance(text, str | Path):
        return text
    found = _ADDRESS.fullmatch(str(text))
    if found is None:
        return Path(text)
    if found["slashes"] == "//":
        return _remote(str(text), found["store"])
    if found["store"] in STORES:
        raise DifflabError(
            f"{text}: an address begins with {found['store']}://, but a Path makes one slash of two; give it as text."
        )
    return Path(text)


def local(place: Place, what: str) -> Path:
    """The place, on this machine. Raises DifflabError for any other; `what` needs a local one, in the plural."""
    if not isinstance(place, Path):
        raise DifflabError(f"{place}: {what} need a folder on this machine; choose another place.")
    return place


def _remote(text: str, store: str) -> UPath:
    if store not in STORES:
        raise DifflabError(f"{text}: results cannot be kept in {store}://.{suggest(store, STORES)}")
    library = STORES[store]
    try:
        importlib.import_module(library)
    except ImportError as error:
        install = "'difflab[s3]'" if library == "s3fs" else library
        raise DifflabError(
            f"{text}: this needs the library {library}, which is not installed; get it with `pip install {install}`; "
            f"{see('how-to/missing')}."
        ) from error
    if not text.partition("://")[2].strip("/"):
        raise DifflabError(
            f"{text}: names no {'folder' if store == 'memory' else 'bucket'}; give {store}://NAME/FOLDER."
        )
    from upath import UPath

    # What other processes write must be seen, so nothing that was listed is remembered.
    return UPath(text.rstrip("/"), use_listings_cache=False)
