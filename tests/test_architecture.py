"""Who may import whom. Imports go one way, so that a room can be understood and used without those above it."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "difflab"
FOUNDATION = {"devices", "errors", "files", "hashing", "hub", "places", "precision", "validation"}

MAY_IMPORT: dict[str, set[str]] = {
    "devices": set(),
    "errors": set(),
    "files": set(),
    "precision": set(),
    "validation": set(),
    "hashing": set(),
    "hub": set(),
    "places": set(),
    "core": set(),
    "nets": set(),
    "score": set(),
    "data": set(),
    "zoo": {"core", "nets"},
    "train": {"core", "nets", "zoo", "data", "score"},  # score: for the feature networks that it trains
    "study": {"core", "zoo", "data", "score", "train"},  # train: for studies that compare trainings
    "report": {"study"},
}
WITHOUT_TORCH = [
    *(f"study/{name}.py" for name in ("spec", "store", "result", "presets", "learning")),
    *(str(path.relative_to(SOURCE)) for path in SOURCE.glob("report/**/*.py")),
]


def _imports(path: Path) -> set[str]:
    """Dotted names of all modules that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names if node.module == "difflab"}
    return names


def _room(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_room_imports_only_rooms_below_it(room: str) -> None:
    files = [p for p in SOURCE.rglob("*.py") if _room(p) == room]
    assert files
    allowed = MAY_IMPORT[room] | FOUNDATION | {room, "__version__"}
    for path in files:
        ours = {name.split(".")[1] for name in _imports(path) if name.startswith("difflab.")}
        assert ours <= allowed, f"{path.relative_to(SOURCE)} imports {sorted(ours - allowed)}"


def test_every_room_has_a_rule() -> None:
    rooms = {_room(p) for p in SOURCE.rglob("*.py")} - {"__init__", "__main__", "cli"}
    assert rooms == set(MAY_IMPORT)


def test_nobody_imports_the_command_line() -> None:
    for path in SOURCE.rglob("*.py"):
        if _room(path) not in ("cli", "__main__"):
            assert not any(name.startswith("difflab.cli") for name in _imports(path)), path


def test_all_but_the_engine_on_ray_does_without_ray() -> None:
    """`study/cluster.py` and what only it imports may go; `make_engine` opens it when it is asked for by name."""
    of = {path.relative_to(SOURCE).as_posix(): _imports(path) for path in SOURCE.rglob("*.py")}
    assert {name for name, ours in of.items() if any(n.split(".")[0] == "ray" for n in ours)} == {
        "study/cluster.py", "study/travel.py",
    }  # fmt: skip
    assert {name for name, ours in of.items() if "difflab.study.travel" in ours} == {"study/cluster.py"}
    assert {name for name, ours in of.items() if "difflab.study.cluster" in ours} == {"study/engine.py"}


@pytest.mark.parametrize("file", WITHOUT_TORCH)
def test_reading_and_showing_results_needs_no_torch(file: str) -> None:
    assert not any(name.split(".")[0] == "torch" for name in _imports(SOURCE / file))


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['difflab', '--help']\n"
        "from difflab.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'scipy', 'matplotlib', 'pandas', 'PIL'}\n"
        "print(sorted({m.split('.')[0] for m in sys.modules} & heavy))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.splitlines()[-1] == "[]"
