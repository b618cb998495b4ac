"""A study on Ray whose disk runs full, and one whose bucket is away for ten seconds: do they end with the same bytes?

    python benchmarks/refusals.py           # the full disk is a small tmpfs, which only root may mount

Both are compared with a run that was left alone: every chunk and every score.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from difflab import files
from difflab.places import Place, place

_FULL, _ENOUGH = "1400k", "200m"  # the first holds about a third of the study
_BEFORE = 5  # chunks that are there when the bucket goes away


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="that the bucket is away")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        study = _study(root)
        _run(study, str(root / "whole"), check=True)
        _full_disk(study, root)
        _absent_bucket(study, root, options.seconds)


def _study(root: Path) -> Path:
    path = root / "study.yaml"
    fields = {
        "name": "refusals", "model": "shapes-unet2d", "reference": "shapes", "metrics": ["fid", "valid"],
        "base": {"count": 512}, "axes": {"steps": [10, 20]}, "chunk": 16, "keep": 512,
    }  # fmt: skip
    path.write_text(yaml.safe_dump(fields))
    return path


def _command(study: Path, out: str) -> list[str]:
    words = ["study", "run", str(study), "--out", out, "--batch", "16", "--engine", "ray", "--workers", "1"]
    return [sys.executable, "-m", "difflab", *words]


def _run(study: Path, out: str, check: bool = False) -> subprocess.CompletedProcess[str]:
    return subprocess.run(_command(study, out), capture_output=True, text=True, check=check)


def _full_disk(study: Path, root: Path) -> None:
    disk = root / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={_FULL}", "tmpfs", str(disk)], check=True)
    try:
        ended = _run(study, str(disk / "run"))
        print(f"full disk: code {ended.returncode}: {ended.stderr.strip().splitlines()[-1]}")
        chunks, parts = (len(list(disk.rglob(pattern))) for pattern in ("chunk-*.npz", "*.part"))
        print(f"  {chunks} chunks are there, {parts} halves of files")
        subprocess.run(["mount", "-o", f"remount,size={_ENOUGH}", str(disk)], check=True)
        again = _run(study, str(disk / "run"))
        print(f"  with room, the same command: code {again.returncode}; {_compared(disk / 'run', root / 'whole')}")
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def _absent_bucket(study: Path, root: Path, seconds: float) -> None:
    from moto.server import ThreadedMotoServer

    def served(port: int) -> ThreadedMotoServer:
        server = ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
        server.start()
        return server

    server = served(0)
    port = server.get_host_and_port()[1]
    os.environ |= {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_ACCESS_KEY_ID": "me", "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_EC2_METADATA_DISABLED": "true",
    }  # fmt: skip
    out = place("s3://bucket/run")
    out.fs.mkdir("bucket")  # type: ignore[union-attr]
    driver = subprocess.Popen(_command(study, str(out)), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while (chunks := _chunks(out)) < _BEFORE:
        time.sleep(0.1)
    server.stop()
    time.sleep(seconds)
    server = served(port)
    said = [line for line in driver.communicate()[1].splitlines() if line.startswith("difflab: ")]
    compared = _compared(out, root / "whole")
    print(f"bucket away for {seconds:g} s after {chunks} chunks: code {driver.returncode}; {compared}")
    print("\n".join(f"  {line}" for line in said))
    server.stop()


def _chunks(root: Place) -> int:
    cells = [root / "cells" / key for key in files.names(root / "cells")]
    return sum(name.endswith(".npz") for cell in cells for name in files.names(cell))


def _compared(root: Place, whole: Path) -> str:
    paths = [p.relative_to(whole) for p in [*whole.glob("cells/*/chunk-*.npz"), *whole.glob("cells/*/result.json")]]
    unlike = [path for path in paths if files.read_bytes(root / str(path)) != (whole / path).read_bytes()]
    return f"{len(paths)} files compared, {len(unlike)} differ"


if __name__ == "__main__":
    main()
