"""The tree of imports: each package sees only those above it, and planning loads nothing heavy."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "marin_sft"

# Top to bottom: a package may import from itself and from what stands above it.
LAYERS = [
    "errors", "progress", "preemption", "machines", "redaction", "nearest", "version", "arguments", "paths", "disk",
    "parts",
    "execution", "inputs",
    "data", "processing", "training", "export", "evaluation", "sweeps", "steps", "recipes", "executor", "trainers",
    "trl", "scripts", "run",
]  # fmt: skip
VALUES_OF_EXECUTION = {"step", "resources", "shards"}
BELOW_EXECUTION = {"data", "processing", "training", "export", "evaluation", "sweeps"}


def module_of(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(file): file for file in PACKAGE.rglob("*.py")}


def imports_of(file: Path) -> set[str]:
    """Every marin_sft module that a file imports, wherever the import stands: in a function or for types alone, too."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            below = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= below & MODULES.keys() if below <= MODULES.keys() else {node.module, *below & MODULES.keys()}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name for name in found if name.startswith("marin_sft.")}


FILES = sorted(file for file in PACKAGE.rglob("*.py") if file.parent != PACKAGE or file.stem in LAYERS)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_imports_point_upwards(file):
    own = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for name in imports_of(file):
        layer = name.split(".")[1]
        assert layer in LAYERS, f"{name} has no place in the tree; add its layer on purpose"
        assert LAYERS.index(layer) <= LAYERS.index(own), f"{file.name} imports {name}, which stands below {own}"
        if own in BELOW_EXECUTION and layer == "execution" and len(name.split(".")) > 2:
            assert name.split(".")[2] in VALUES_OF_EXECUTION, f"{own} sees only the step values, not {name}"


def test_no_module_imports_itself_by_way_of_others():
    imports = {module: imports_of(file) & MODULES.keys() for module, file in MODULES.items()}

    def reached_from(module: str) -> set[str]:
        found, open_modules = set[str](), [module]
        while open_modules:
            new = imports[open_modules.pop()] - found
            found |= new
            open_modules += new
        return found

    reached = {module: reached_from(module) for module in imports}
    in_circles = {module: {other for other in reached[module] if module in reached[other]} for module in imports}
    circles = {frozenset(name.removeprefix("marin_sft.") for name in circle) for circle in in_circles.values()}
    assert not circles - {frozenset()}


def test_classes_that_stand_in_configs_have_names_of_their_own():
    """Ours count for identity by their names alone, so that they may move; two of one name would be one to it."""
    places: dict[str, list[str]] = {}
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ClassDef) and node.decorator_list and "dataclass" in ast.dump(node):
                places.setdefault(node.name, []).append(str(file.relative_to(ROOT)))
    of_configs = re.compile(r"[A-Z]\w*(Adapter|Config|Dataset|Exports?|Format|Options|Spec)")
    found = {name: files for name, files in places.items() if of_configs.fullmatch(name)}
    assert len(found) > 30 and not {name: files for name, files in found.items() if len(files) > 1}


def test_planning_imports_nothing_heavy():
    program = (
        "import sys; sys.argv = ['quickstart.py', '--dry_run'];"
        "import runpy; runpy.run_path('experiments/quickstart.py', run_name='__main__');"
        "heavy = {'jax', 'ray', 'transformers', 'levanter', 'haliax', 'datasets', 'torch', 'numpy'} & set(sys.modules);"
        "sys.exit(f'planning imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
