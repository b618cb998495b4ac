"""Kill workers, raylets and drivers of a study on Ray at random moments, until it ends all the same.

    python benchmarks/kills.py --kills 30

The study is then run again without any kill, and both stores are compared: every chunk and every score, byte by byte.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import yaml

TARGETS = ("worker", "raylet", "driver")
_EARLY = 0.2  # share of kills that do not wait for a first chunk: while Ray starts, models open, the reference is read
_PATIENCE = 120.0  # seconds in which a driver must have noticed that its raylet is gone


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--count", type=int, default=4000, help="samples a cell")
    parser.add_argument("--longest", type=float, default=5.0, help="seconds to a kill from the next chunk on, at most")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root, draw = Path(folder), random.Random(options.seed)
        study = _study(root, options.count)
        killed = _kill_until_done(study, root / "killed", draw, options)
        print(f"kills: {dict(killed)}; now once without", flush=True)
        subprocess.run(_command(study, root / "whole"), check=True, stdout=subprocess.DEVNULL)
        _compare(root / "killed", root / "whole")


def _study(root: Path, count: int) -> Path:
    path = root / "study.yaml"
    fields = {
        "name": "kills", "model": "shapes-unet2d", "reference": "shapes", "metrics": ["fid", "valid"],
        "base": {"count": count}, "axes": {"steps": [5, 10, 20]}, "chunk": 32, "keep": 8,
    }  # fmt: skip
    path.write_text(yaml.safe_dump(fields))
    return path


def _command(study: Path, out: Path) -> list[str]:
    words = ["-m", "difflab", "study", "run", str(study), "--out", str(out), "--batch", "32"]
    return [sys.executable, *words, "--engine", "ray", "--workers", "2"]


def _kill_until_done(study: Path, out: Path, draw: random.Random, options: argparse.Namespace) -> Counter[str]:
    killed: Counter[str] = Counter()
    while True:
        driver = subprocess.Popen(_command(study, out), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        while driver.poll() is None and sum(killed.values()) < options.kills:
            target = draw.choice(TARGETS)
            if not (draw.random() < _EARLY or _begins(driver, out)):
                break
            if not _wait(driver, draw.uniform(0.0, options.longest)):
                break
            if (pid := _find(driver.pid, target)) is None:
                continue
            os.kill(pid, signal.SIGKILL)
            killed[target] += 1
            chunks = len(list(out.glob("cells/*/chunk-*.npz")))
            print(f"{sum(killed.values()):3d} killed {target} ({chunks} chunks are there)", flush=True)
            if target != "worker":
                driver.communicate(timeout=_PATIENCE)
        _, said = driver.communicate()
        if driver.returncode == 0:
            return killed
        print(
            f"    the driver ended with {driver.returncode}: {(said.strip().splitlines() or [''])[-1][:150]}",
            flush=True,
        )
        if sum(killed.values()) >= options.kills and driver.returncode not in (-9, 1):
            raise SystemExit(said)


def _begins(driver: subprocess.Popen[str], out: Path) -> bool:
    """Wait until one more chunk is there; whether the driver still runs then."""
    before = len(list(out.glob("cells/*/chunk-*.npz")))
    while len(list(out.glob("cells/*/chunk-*.npz"))) == before:
        if not _wait(driver, 0.1):
            return False
    return True


def _wait(driver: subprocess.Popen[str], seconds: float) -> bool:
    """Whether the driver still runs after so long."""
    try:
        driver.wait(seconds)
    except subprocess.TimeoutExpired:
        return True
    return False


def _find(driver: int, target: str) -> int | None:
    """A process of the driver's that is such a target, if one is there yet."""
    if target == "driver":
        return driver
    said = {"worker": ("ray::_worked", "ray::IDLE"), "raylet": ("/raylet/raylet",)}[target]
    found = [pid for pid in _below(driver) if any(word in _command_of(pid) for word in said)]
    return random.choice(found) if found else None


def _command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")[0]
    except OSError:  # it ended just now
        return ""


def _below(pid: int) -> list[int]:
    try:
        children = [int(n) for task in Path(f"/proc/{pid}/task").glob("*/children") for n in task.read_text().split()]
    except OSError:  # it ended just now
        return []
    return children + [lower for child in children for lower in _below(child)]


def _compare(killed: Path, whole: Path) -> None:
    names = sorted(
        str(path.relative_to(whole)) for path in whole.glob("cells/*/*") if path.name.startswith(("chunk-", "result"))
    )
    files = [name for name in names if not (name.endswith(".json") and "chunk-" in name)]
    there = {str(path.relative_to(killed)) for path in killed.glob("cells/*/*")}
    unlike = [name for name in files if (killed / name).read_bytes() != (whole / name).read_bytes()]
    spare = [name for name in there - set(names) if not name.endswith("decides.json")]
    print(f"{len(files)} files compared: {len(unlike)} differ; {len(spare)} that should not be there {spare[:3]}")
    if unlike or spare:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
