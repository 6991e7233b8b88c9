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
    "errors", "progress", "redaction", "paths", "disk", "execution",
    "data", "training", "export", "evaluation", "steps", "recipes", "run",
]  # fmt: skip
VALUES_OF_EXECUTION = {"step", "resources", "backends"}
BELOW_EXECUTION = {"data", "training", "export", "evaluation"}


def imports_of(file: Path, at_import_only: bool = False) -> set[str]:
    """Every marin_sft module that a file imports: at the top only, or also inside a function."""
    found = set()
    tree = ast.parse(file.read_text())
    for node in tree.body if at_import_only else ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
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


def test_no_import_cycle_within_a_package():
    graph = {
        ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): imports_of(
            file, at_import_only=True
        )
        for file in PACKAGE.rglob("*.py")
    }
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, f"import cycle: {' -> '.join([*path[path.index(module) :], module])}"
        if module not in done:
            for target in graph[module] & graph.keys():
                visit(target, (*path, module))
            done.add(module)

    for module in graph:
        visit(module, ())


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
