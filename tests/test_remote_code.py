"""Code that lies in a directory of a model or tokenizer is nowhere run, and nobody is asked to let it."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = [
    file for folder in ("marin_sft", "experiments", "benchmarks") for file in sorted((ROOT / folder).rglob("*.py"))
]
# Of transformers; those of others, and of the settings of generation, take no code from a directory.
WITHOUT_CODE = {"GenerationConfig", "PeftModel"}


def loads(file: Path) -> list[tuple[str, ast.Call]]:
    """The calls of `from_pretrained`, each with the class that it is of."""
    calls = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call)]
    named = [(call.func, call) for call in calls if isinstance(call.func, ast.Attribute)]
    loading = [(ast.unparse(func.value), call) for func, call in named if func.attr == "from_pretrained"]
    return [(of, call) for of, call in loading if of.rpartition(".")[2] not in WITHOUT_CODE]


@pytest.mark.parametrize("file", [file for file in FILES if loads(file)], ids=lambda file: str(file.relative_to(ROOT)))
def test_every_load_refuses_it(file):
    for of, call in loads(file):
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        assert given.get("trust_remote_code") == "False", f"{file}:{call.lineno}: {of}.from_pretrained"


def test_there_are_some():
    found = {str(file.relative_to(ROOT)) for file in FILES if loads(file)}
    assert {"marin_sft/data/tokenizer.py", "marin_sft/export/verify.py", "benchmarks/serve_export.py"} <= found
