"""The rooms of the package and the direction of their imports, read from the files themselves."""

import ast
import importlib
import re
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import finetune
from finetune.potentials.family import families, family
from finetune.recipe.optimisers import OPTIMISERS

ROOT = Path(finetune.__file__).parent
MOST_FLOORS = 14


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


MODULES = {module_name(path): path for path in sorted(ROOT.rglob("*.py"))}


@cache
def imports(module: str) -> frozenset[str]:
    """Modules that a file imports anywhere, within functions and for type checking too."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                found.add(full if full in MODULES else node.module)
    return frozenset(found)


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def room_imports() -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for module in MODULES:
        own = found.setdefault(room(module), set())
        own.update(room(name) for name in imports(module) if name in MODULES)
        own.discard(room(module))
    return {name: others for name, others in found.items() if name not in {"", "__main__"}}


def test_nothing_stands_flat_at_the_top() -> None:
    files = {path.name for path in ROOT.iterdir() if path.is_file()}
    assert files == {"__init__.py", "__main__.py"}


def test_files_import_in_no_circle() -> None:
    graph = {
        module: {name for name in imports(module) if name in MODULES and name != "finetune"}
        for module in MODULES
        if module != "finetune"  # its imports wait until they are asked for
    }
    order = list(TopologicalSorter(graph).static_order())  # CycleError names a circle
    assert set(order) == set(MODULES) - {"finetune"}


def test_rooms_are_floors_without_circles() -> None:
    graph = {name: others - {""} for name, others in room_imports().items()}
    floors: dict[str, int] = {}
    for name in TopologicalSorter(graph).static_order():
        floors[name] = 1 + max((floors[below] for below in graph[name]), default=0)
    assert max(floors.values()) <= MOST_FLOORS, floors
    assert floors["core"] == 1 and floors["recipe"] == 2


def test_rooms_name_what_other_rooms_use() -> None:
    for module, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith(
                "finetune."
            ):
                continue
            other = room(str(node.module))
            if other in {room(module), "commands", "testing"}:
                continue
            for alias in node.names:
                if f"{node.module}.{alias.name}" not in MODULES:
                    offered = importlib.import_module(f"finetune.{other}").__all__
                    assert alias.name in offered, f"{module}: {alias.name} of {node.module}"


@pytest.mark.parametrize("name", sorted({room(module) for module in MODULES} - {"", "__main__"}))
def test_rooms_say_what_is_in_them(name: str) -> None:
    package = importlib.import_module(f"finetune.{name}")
    assert (package.__doc__ or "").strip().count("\n") <= 8
    for offered in getattr(package, "__all__", []):
        assert getattr(package, offered) is not None


def test_losses_and_adapters_do_not_know_each_other() -> None:
    rooms = room_imports()
    assert "adapters" not in rooms["losses"]
    assert "losses" not in rooms["adapters"]


def test_only_adapters_know_peft() -> None:
    for module in MODULES:
        packages = {name.split(".")[0] for name in imports(module)}
        assert room(module) == "adapters" or "peft" not in packages, module


def test_nothing_asks_for_an_optimiser_or_adapter_by_name() -> None:
    """Other code asks `OptimiserRules` and `AdapterRules`."""
    own = {"finetune.recipe.optimisers", "finetune.recipe.sections"}
    for module, path in MODULES.items():
        if module in own or module.startswith("finetune.training.optimisers"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Compare):
                names = {*OPTIMISERS, "lora", "full", "frozen", "head"}
                values = {item.value for item in ast.walk(node) if isinstance(item, ast.Constant)}
                assert not names & values, f"{module}: {ast.unparse(node)}"


def test_e3nn_and_mace_are_imported_quietly() -> None:
    """`quiet_import` alone: recent torch imports e3nn 0.4.4 only with a switch that it sets."""
    for module in MODULES:
        assert not {"e3nn", "mace"} & {name.split(".")[0] for name in imports(module)}, module


def test_families_are_known_by_name_in_their_own_rooms_alone() -> None:
    """A third family is a folder and a line of the registry."""
    own = [name for name in families.builtin if not family(name).wraps]
    known = [*own, *(family(name).title for name in own)]
    word = re.compile(rf"\b({'|'.join(known)})(?=\b|_)", re.IGNORECASE)
    registry = MODULES["finetune.potentials.family"]
    for module, path in MODULES.items():
        if module.startswith(tuple(f"finetune.potentials.{name}" for name in own)):
            continue
        text = path.read_text(encoding="utf-8")
        if path == registry:
            text = text[: text.index("families: Registry")]
        assert not word.search(text), f"{module}: {word.search(text)}"
