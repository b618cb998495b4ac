"""Reference statistics on disk: the `.npz` files that pytorch-fid, EDM and ADM read and write.

Ours hold `mu` and `sigma` (divisor n - 1, float64) as theirs do, so other tools can read them, and beside them what
theirs lack: the count `n` and a `passport` (JSON text) that says which samples and which features they are of.
"""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from difflab import files
from difflab.errors import DifflabError
from difflab.places import Place
from difflab.score.moments import Gaussian, Moments


@dataclass(frozen=True)
class Statistics:
    """What a statistics file says, in float64.

    Attributes:
        mu, sigma: mean (d,) and covariance (d, d).
        n: how many samples they are of; None where the file does not say.
        passport: how they were made; None where the file does not say.
        mu_s, sigma_s: the same of sFID's 2023 features, which only ADM's files hold; else None.
    """

    mu: np.ndarray
    sigma: np.ndarray
    n: int | None = None
    passport: dict[str, Any] | None = None
    mu_s: np.ndarray | None = None
    sigma_s: np.ndarray | None = None

    @property
    def gaussian(self) -> Gaussian:
        """Mean and covariance, as `frechet` takes them."""
        return Gaussian(self.mu, self.sigma)


def save_statistics(path: Place, moments: Moments, passport: Mapping[str, Any], spatial: Moments | None = None) -> None:
    """Write `moments` (ddof 1) and `passport` to the `.npz` file `path`; equal input gives equal bytes.

    `spatial`: those of sFID's features, written as mu_s and sigma_s, as ADM's files have them.

    The passport of the features belongs under "extractor": `fd_score` compares it with that of the samples.
    Raises DifflabError for fewer than two samples.
    """
    arrays = dict(zip(("mu", "sigma"), moments.gaussian(), strict=True))
    if spatial is not None:
        arrays |= dict(zip(("mu_s", "sigma_s"), spatial.gaussian(), strict=True))
    content = io.BytesIO()
    np.savez(content, **arrays, n=moments.n, passport=json.dumps(passport, sort_keys=True))  # type: ignore[arg-type]
    files.write_bytes(path, content.getvalue())


def load_statistics(path: Place) -> Statistics:
    """Read statistics written by difflab, pytorch-fid, EDM, clean-fid or ADM, float32 or float64.

    Raises DifflabError when there is no such file, it is no `.npz` or cut short, holds pickled objects, lacks `mu` or
    `sigma`, or these do not fit together, are not finite, or are no covariance.
    """
    arrays = _read(path)
    if "mu" not in arrays or "sigma" not in arrays:
        found = ", ".join(sorted(arrays)) or "nothing known"
        raise DifflabError(
            f"{path}: statistics need the arrays 'mu' and 'sigma', but the file holds {found}; make statistics of "
            "samples with `difflab stats`."
        )
    mu, sigma = _gaussian(path, arrays, "mu", "sigma")
    has_spatial = "mu_s" in arrays and "sigma_s" in arrays
    mu_s, sigma_s = _gaussian(path, arrays, "mu_s", "sigma_s") if has_spatial else (None, None)
    return Statistics(
        mu=mu,
        sigma=sigma,
        n=_count(path, arrays["n"]) if "n" in arrays else None,
        passport=_passport(path, arrays["passport"]) if "passport" in arrays else None,
        mu_s=mu_s,
        sigma_s=sigma_s,
    )


def _read(path: Place) -> dict[str, np.ndarray]:
    """The arrays of interest: ADM's files also hold 10,000 images, which are not touched."""

    def read() -> dict[str, np.ndarray]:
        with files.reading(path) as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise DifflabError(f"{path}: a single array; statistics are an .npz with 'mu' and 'sigma'.")
            with archive:
                wanted = {"mu", "sigma", "n", "passport", "mu_s", "sigma_s"} & set(archive.files)
                return {key: archive[key] for key in wanted}

    try:
        return files.patient(read, path)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise DifflabError(
            f"{path}: no such file; expected an .npz of statistics, as `difflab stats` makes them."
        ) from error
    except DifflabError:
        raise
    except (ValueError, EOFError, OSError, zipfile.BadZipFile, zlib.error) as error:
        raise DifflabError(
            f"{path}: not a complete .npz of plain arrays ({str(error).splitlines()[0]}); nothing in it was executed. "
            "Fetch it or make it again."
        ) from error


def _gaussian(path: Place, arrays: Mapping[str, np.ndarray], mu_key: str, sigma_key: str) -> Gaussian:
    mu, sigma = arrays[mu_key], arrays[sigma_key]
    if mu.ndim != 1 or sigma.shape != (len(mu), len(mu)):
        raise DifflabError(
            f"{path}: '{mu_key}' has shape {mu.shape} and '{sigma_key}' {sigma.shape}; (d,) and (d, d) were expected."
        )
    for key in (mu_key, sigma_key):
        if not (np.issubdtype(arrays[key].dtype, np.floating) and np.isfinite(arrays[key]).all()):
            raise DifflabError(
                f"{path}: '{key}' must hold finite floats, but does not ({arrays[key].dtype}); make it again."
            )
    slack = 1e-4 * np.abs(sigma).max(initial=0)  # float32 sums in some order are never quite symmetric
    if np.abs(sigma - sigma.T).max(initial=0) > slack or np.diag(sigma).min(initial=0) < 0:
        raise DifflabError(
            f"{path}: '{sigma_key}' is no covariance: it must be symmetric, without a negative variance."
        )
    return Gaussian(mu.astype(np.float64), sigma.astype(np.float64))


def _count(path: Place, n: np.ndarray) -> int:
    if n.shape != () or not np.issubdtype(n.dtype, np.integer) or n < 2:
        raise DifflabError(f"{path}: 'n' must be one whole number of at least 2, but it is {n!r}.")
    return int(n)


def _passport(path: Place, text: np.ndarray) -> dict[str, Any]:
    try:
        passport = json.loads(str(text))
    except json.JSONDecodeError as error:
        raise DifflabError(f"{path}: 'passport' is not JSON ({error}); make the statistics again.") from error
    if not isinstance(passport, dict):
        raise DifflabError(f"{path}: 'passport' must be a JSON object, but it is {type(passport).__name__}.")
    if not isinstance(passport.get("extractor", {}), dict):
        raise DifflabError(f"{path}: 'extractor' in its passport must be a JSON object; make the statistics again.")
    return passport
