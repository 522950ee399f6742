"""The rooms of the package and the direction of their imports."""

import ast
from pathlib import Path

import pytest

import finetune

ROOT = Path(finetune.__file__).parent
FLOORS = [
    {"errors", "files", "mappings", "options", "wording"},
    {"explanation", "overrides", "stages", "units"},
    {"registry", "resources", "environment", "control_groups"},
    {"schedules"},
    {"displacements"},
    {"losses.options", "adapters.options", "adapters.defaults"},
    {"losses", "adapters"},  # the registries, in __init__
    {"plugins"},
    {"sections", "tuning.options"},
    {"optimisers", "settling"},
    {"recipe"},
    {"schema"},
    {"run_files"},
    {"run_folder"},
    {"devices", "quantities"},
    {"data"},
    {"inspection"},
    {"foundation"},
    {"soft_modes", "dynamics"},
    {"teacher"},
    {"perturbation"},
    {"losses.*", "adapters.*"},
    {"evaluation.metrics"},
    {"sanity", "selection", "suitability"},
    {"training"},
    {"result", "evaluation"},
    {"export"},
    {"division"},
    {"preparation"},
    {"description"},
    {"joint_folder", "outputs"},
    {"ladder"},
    {"committee"},
    {"workflow", "survey", "assessment", "labelling"},
    {"tuning"},
    {"comparison"},
    {"testing"},
    {"commands"},
]
"""From the ground up: a room may import its own floor and those below."""


def floor(module: str) -> int:
    parts = module.removeprefix("finetune").strip(".").split(".")
    if parts == [""]:
        return -1  # the package itself is lazy
    exact = {name: level for level, names in enumerate(FLOORS) for name in names}
    for name in (".".join(parts[:2]), f"{parts[0]}.*" if len(parts) > 1 else "", parts[0]):
        if name in exact:
            return exact[name]
    raise AssertionError(f"{module} has no place in FLOORS")


def imports(path: Path) -> list[str]:
    found = []
    guarded: set[ast.AST] = set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            guarded.update(child for statement in node.body for child in ast.walk(statement))
    for node in ast.walk(tree):
        if node in guarded:
            continue
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            known = [
                name
                for name in names
                if (ROOT.parent / name.replace(".", "/")).exists()
                or (ROOT.parent / f"{name.replace('.', '/')}.py").exists()
            ]
            found += known or [node.module]
    return found


def modules() -> list[str]:
    names = []
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        names.append(".".join(part for part in parts if part != "__init__"))
    return [name for name in names if name not in {"", "__main__"}]


@pytest.mark.parametrize("module", modules())
def test_rooms_import_downwards_only(module: str) -> None:
    path = ROOT / module.replace(".", "/")
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    for imported in imports(path):
        if imported.startswith("finetune"):
            assert floor(imported) <= floor(module), f"{module} imports {imported}"


def test_losses_and_adapters_do_not_know_each_other() -> None:
    for room, other in (("losses", "adapters"), ("adapters", "losses")):
        for path in (ROOT / room).glob("*.py"):
            assert not any(name.startswith(f"finetune.{other}") for name in imports(path)), path


def test_only_the_foundation_room_knows_mace_and_only_adapters_know_peft() -> None:
    for path in ROOT.rglob("*.py"):
        packages = {name.split(".")[0] for name in imports(path)}
        if "foundation" not in path.parts:
            assert "mace" not in packages, path
        if "adapters" not in path.parts:
            assert "peft" not in packages, path
        if not {"foundation", "adapters"} & set(path.parts):
            assert "e3nn" not in packages, path


def test_files_stay_small() -> None:
    for path in ROOT.rglob("*.py"):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 320, path
