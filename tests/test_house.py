"""The house: packages stand on floors and import from below; files hold one idea; what is shown to users works."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from interpreter import run_python

import camfast
from camfast.cli import main as command_line

PACKAGE = Path(camfast.__file__).parent
ROOT = Path(__file__).resolve().parents[1]

# A package, or a module beside them, imports only from floors below its own.
FLOORS = (
    ("after_torch", "brief", "errors", "ops", "threads", "version"),
    ("pictures",),
    ("model",),
    ("features", "targets", "zoo"),
    ("losses", "methods"),
    ("dataset", "detection", "metrics", "shipped"),
    ("callbacks", "compat", "reports", "video"),
    ("cli", "colormaps", "reference"),  # the last two are modules of the ops under their public names
    ("__init__", "__main__"),
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}

# Imports that do not go down, from which room to which: why.
ALLOWED: dict[tuple[str, str], str] = {}

LINES = 420  # about 400
LONGER: dict[str, str] = {}  # files of more lines that hold one idea: which

# The commands and what their help listed before packages had floors; more may come, none may go.
COMMANDS = {
    "image": "PHOTO -o --output --model --weights --labels --fit --device --batch-size --method --layer --target "
    "--colormap --alpha --format --legend --csv --json --html --maps --normalize",
    "detect": "PHOTO -o --output --format --each --csv --json --html --maps --model --weights --labels --size --trust --device "
    "--classes --min-score --top --explain --method --layer --colormap --alpha",
    "video": "IN -o --output --layout --start --end --codec --quality --decoder --no-summary --every --model --weights "
    "--labels --fit --device --method --layer --target --colormap --alpha --smooth --detect --classes --min-score --top",
    "live": "SOURCE --loop --host --port --model --weights --labels --fit --device --method --layer --target --colormap "
    "--alpha --smooth",
    "features": "PHOTO --logdir -o --out --model --weights --layers --type --channels --labels --histograms --colormap "
    "--device",
    "layers": "MODEL --depth",
    "dataset": "PHOTOS -o --output -m --model --weights --labels --fit --device --method --layer --target --batch --workers "
    "--folders --path-column --label-column --shard --ray --actors",
    "report": "OUT -o --output --boxes --root --pictures --title --colormap",
    "demo": "PHOTO -o --output",
    "evaluate": "PHOTO --methods --metrics --target --layer -o --output --batch-size --model --weights --labels --fit --device",
    "export": "FILE --model --weights --labels --fit --device --method --layer --target --frames --overlay "
    "--colormap --alpha --size --batch --photo --opset",
    "gallery": "PHOTO -o --output --methods --model --weights",
    "info": "--json",
}


def test_every_source_is_compiled_in_one_unit() -> None:
    for device, folders in (("cpu", ("", "cpu")), ("cuda", ("cuda",))):
        units = [unit.read_text() for unit in (ROOT / "csrc/units").glob(f"{device}_*")]
        included = [line for unit in units for line in re.findall(r'^#include "\.\./(.+)"$', unit, re.MULTILINE)]
        files = [file for folder in folders for end in ("*.cpp", "*.cu") for file in (ROOT / "csrc" / folder).glob(end)]
        assert sorted(included) == sorted(file.relative_to(ROOT / "csrc").as_posix() for file in files)


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def room_of(file: Path) -> str:
    first = file.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imported_rooms(file: Path) -> Iterator[tuple[str, int]]:
    """The rooms that a module imports from, wherever in it the import stands, with its line."""
    package = list(file.relative_to(PACKAGE.parent).parent.parts) if PACKAGE in file.parents else []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            paths = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) + 1 - node.level] if node.level else []
            full = [*start, *(node.module or "").split(".")] if node.module else start
            paths = [full] if len(full) > 1 else [[*full, alias.name] for alias in node.names]
        else:
            continue
        for path in paths:
            if path[0] == "camfast":
                yield (path[1] if len(path) > 1 else "__init__"), node.lineno


def test_every_room_has_a_floor():
    assert {room_of(file) for file in modules()} == set(FLOOR)


def test_imports_go_down():
    upward = set()
    for file in modules():
        room = room_of(file)
        for other, line in imported_rooms(file):
            if other != room and FLOOR[other] >= FLOOR[room] and (room, other) not in ALLOWED:
                upward.add(f"{file.relative_to(PACKAGE.parent)}:{line} imports camfast.{other}")
    assert not upward


def test_allowed_imports_are_still_made():
    made = {(room_of(file), other) for file in modules() for other, _ in imported_rooms(file)}
    assert set(ALLOWED) <= made


def test_few_rooms_and_floors():
    """Rooms are counted with the benchmarks, the kernels and the build; floors are the longest chain of imports."""
    arrows = {room: set() for room in [*FLOOR, "benchmarks"]}
    for file in modules():
        arrows[room_of(file)] |= {other for other, _ in imported_rooms(file)} - {room_of(file)}
    for file in (ROOT / "benchmarks").glob("*.py"):
        arrows["benchmarks"] |= {other for other, _ in imported_rooms(file)}

    def height(room: str, above: tuple[str, ...] = ()) -> int:
        assert room not in above, f"a circle: {' > '.join((*above, room))}"
        return 1 + max((height(other, (*above, room)) for other in arrows[room]), default=0)

    assert len({*arrows, "csrc", "setup.py"}) <= 30
    assert max(map(height, arrows)) <= 8


def test_few_files_at_the_root():
    assert len(list(PACKAGE.glob("*.py"))) <= 12


def test_files_can_be_read_in_one_sitting():
    folders = [ROOT / name for name in ("benchmarks", "camfast", "csrc", "examples")]
    kinds = {".py", ".h", ".cpp", ".cuh", ".cu"}
    files = [file for folder in folders for file in folder.rglob("*") if file.suffix in kinds]
    lengths = {str(file.relative_to(ROOT)): file.read_bytes().count(b"\n") for file in files}
    assert len(lengths) > 200
    assert {file for file, lines in lengths.items() if lines > LINES} == set(LONGER)


# What users see


@pytest.mark.parametrize("name", camfast.__all__)
def test_public_names_exist(name):
    assert getattr(camfast, name) is not None
    assert dir(camfast) == sorted(camfast.__all__)


def test_unknown_names_are_refused():
    with pytest.raises(AttributeError, match="module 'camfast' has no attribute 'grad_can'"):
        _ = camfast.grad_can
    assert not hasattr(camfast, "_private")


def test_names_come_from_where_type_checkers_see_them():
    """What ``camfast/__init__.py`` imports for type checkers alone is what it gives when a name is asked for."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level]
    seen = {}
    for node in imports:
        for alias in node.names:
            path = f"camfast.{node.module}" if node.module else "camfast"
            module = importlib.import_module(path if node.module else f"camfast.{alias.name}")
            seen[alias.name] = getattr(module, alias.name) if node.module else module
    assert set(camfast.__all__) <= set(seen)
    assert [name for name in camfast.__all__ if getattr(camfast, name) is not seen[name]] == []


def shown() -> list[tuple[str, str]]:
    """Each dotted path and each import of camfast in the README, the documentation and the examples, and where."""
    files = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "examples").rglob("*.py"))]
    found = set()
    for file in files:
        text = file.read_text()
        paths = [match[1] for match in re.finditer(r"(?<![\w./-])(camfast(?:\.[A-Za-z_]\w*)+)", text)]
        for match in re.finditer(r"^\s*from (camfast[\w.]*) import ([\w, ]+)", text, re.MULTILINE):
            names = [part.split(" as ")[0].strip() for part in match[2].split(",")]
            paths += [f"{match[1]}.{name}" for name in names if name]
        found |= {(path, str(file.relative_to(ROOT))) for path in paths}
    return sorted(found)


def test_what_is_shown_exists():
    paths = shown()
    assert len(paths) > 60
    missing = [f"{path} in {file}" for path, file in paths if not exists(path)]
    assert not missing


def exists(path: str) -> bool:
    """Whether ``path`` is a module, or an attribute of what comes before its last dot."""
    try:
        importlib.import_module(path)
        return True
    except ImportError:
        parent, _, name = path.rpartition(".")
        if not parent:
            return False
    try:
        return hasattr(importlib.import_module(parent), name)
    except ImportError:
        owner, _, attribute = parent.rpartition(".")
        return exists(parent) and hasattr(getattr(importlib.import_module(owner), attribute), name)


@pytest.mark.parametrize("command", COMMANDS)
def test_no_option_is_lost(command, capsys):
    with pytest.raises(SystemExit) as end:
        command_line([command, "--help"])
    words = set(re.findall(r"[\w-]+", capsys.readouterr().out))
    assert end.value.code == 0 and set(COMMANDS[command].split()) <= words


def test_the_help_lists_the_commands(capsys):
    assert command_line([]) == 0
    help_text = capsys.readouterr().out
    assert all(re.search(rf"^ +{command} ", help_text, re.MULTILINE) for command in COMMANDS)
    assert "--version" in help_text


# Imports


@pytest.mark.parametrize("order", ["import camfast, torch", "import torch, camfast", "import camfast.reference"])
def test_importing_camfast_alone_registers_its_ops(order):
    use = "torch.ops.camfast.grad_cam(torch.ones(1, 2, 3, 3), torch.ones(1, 2, 3, 3), [6, 6]); print(vars(torch.__loader__))"
    process = run_python("-c", f"{order}; import torch; {use}")
    assert process.returncode == 0, process.stderr
    assert "exec_module" not in process.stdout  # torch's loader is as it was


def test_importing_camfast_does_not_import_torch():
    code = (
        "import sys, importlib.util, camfast; assert importlib.util.find_spec('torch') and dir(camfast); "
        "assert not {'torch', 'numpy'} & set(sys.modules); import torch; torch.ops.camfast.grad_cam.default; "
        "assert not [finder for finder in sys.meta_path if type(finder).__module__ == 'camfast.after_torch']"
    )
    process = run_python("-c", code)
    assert process.returncode == 0, process.stderr


def test_a_library_that_is_missing_is_said_by_camfast_and_not_by_torch():
    code = (
        "import camfast.after_torch, pathlib; glob = pathlib.Path.glob; "
        "pathlib.Path.glob = lambda path, pattern: iter(()) if pattern.startswith('_C') else glob(path, pattern); "
        "import torch; torch.zeros(1); camfast.grad_cam"
    )
    process = run_python("-c", code)
    assert process.returncode == 1 and "camfast's compiled library is missing" in process.stderr


def test_short_names_of_the_ops_modules():
    reference = importlib.import_module("camfast.reference")
    assert reference is camfast.reference is camfast.ops.reference
    assert importlib.import_module("camfast.colormaps") is camfast.colormaps is camfast.ops.colormaps
