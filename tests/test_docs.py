"""What the pages of docs/ tell users to write and to type can be planned and parsed, and what they link to is there."""

import dataclasses
import inspect
import json
import os
import pydoc
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import marin_sft
from experiments.simple_sft_config import SimpleSFTConfig
from marin_sft import data, steps
from marin_sft.execution import resources
from marin_sft.execution.flags import parse_flags
from marin_sft.run import command as marin_sft_command
from marin_sft.run import ray_run
from marin_sft.trainers import DPOConfig, SFTConfig
from marin_sft.trainers.commands import parse as parse_settings
from marin_sft.training.lora_config import LoraConfig
from marin_sft.training.metrics import trackers
from tests.infra.launcher_files import make

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [*sorted(DOCS.rglob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
OUTSIDE = set(
    "cd chmod cp docker export gcloud git kubectl llama-server ls ollama pip prometheus ray sbatch sky source "
    "vllm".split()
)
"""Commands that are not ours."""

# The files that the pages call yours.
DATA = {
    "mine.jsonl": {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]},
    "held_out.jsonl": {"messages": [{"role": "user", "content": "p"}, {"role": "assistant", "content": "b"}]},
    "texts.jsonl": {"body": "a text"},
    "tasks.csv": "task,solution\nq,a",
    "pairs.jsonl": {"prompt": "q", "chosen": "a", "rejected": "b"},
}
PLAN_ALL = """
if __name__ == "__main__":
    import marin_sft

    steps = [value for value in list(globals().values()) if isinstance(value, marin_sft.ExecutorStep)]
    marin_sft.executor_main(steps=steps)
"""


def ids(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "py")], ids=ids)
def test_the_steps_of_a_page_can_be_planned(page, tmp_path):
    """The blocks of a page are one script. One may run itself; here all steps are planned at the end."""
    (tmp_path / "data").mkdir()
    for name, row in DATA.items():
        (tmp_path / "data" / name).write_text(row if isinstance(row, str) else json.dumps(row))
    script = "\n".join(blocks(page, "py")).replace('if __name__ == "__main__":', "if False:")
    (tmp_path / "page.py").write_text(script + PLAN_ALL)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_ENDPOINT": "http://127.0.0.1:9"}
    done = subprocess.run(
        [sys.executable, "page.py", "--dry_run", "--json"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)) >= 2


def commands(page: Path) -> list[list[str]]:
    """The words of each command, those in $(...) by themselves, without comments and without variables before it."""
    found = []
    for line in "".join(blocks(page, "bash")).replace("\\\n", " ").splitlines():
        inner = re.findall(r"\$\((.*?)\)", line)
        for text in [*inner, re.sub(r"\$\(.*?\)", "PATH", line)]:
            for part in text.split(" && "):
                words = shlex.split(part, comments=True)
                while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                    words.pop(0)
                found += [words] if words else []
    return found


def check(words: list[str]) -> None:
    """Raise unless the command is one that there is, with flags that it takes."""
    first, *rest = words
    if first == "make":
        makefile = (ROOT / "Makefile").read_text()
        assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in rest if "=" not in target), words
    elif first == "marin-sft" and rest[0] in marin_sft_command.TRAINERS:
        parse_settings(rest[1:], {"sft": SFTConfig, "dpo": DPOConfig}[rest[0]], "marin-sft")
    elif first == "marin-sft":
        marin_sft_command._parse(rest)
    elif Path(first).name == "python":
        check_python(rest)
    else:
        assert first in OUTSIDE or Path(first).parts[0] in (".venv", ".ci"), f"{first} is not known: {words}"
        assert not first.startswith(".ci") or (ROOT / first).exists()


def check_python(words: list[str]) -> None:
    if words[:2] == ["-m", "marin_sft.run.ray_run"] or words[0] == "marin_sft/run/ray_run.py":
        _, job = ray_run.parse(words[2:] if words[0] == "-m" else words[1:])
        check(job)
    elif words[0] == "infra/make.py":
        make.parser().parse_args(words[1:])
    elif words[0] == "-m":
        assert words[1] in ("pip", "pytest", "tests.test_identity"), words
    elif words[0].startswith("experiments/"):
        assert (ROOT / words[0]).exists(), words
        parse_flags(words[1:])
    elif words[0] == "mine.py":
        parse_flags(words[1:])
    else:
        assert words[0] == "-c" or words[0].startswith("llama.cpp/") or (ROOT / words[0]).exists(), words


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "bash")], ids=ids)
def test_the_commands_of_a_page_are_there(page):
    for words in commands(page):
        check(words)


def test_a_command_that_is_not_there_is_found():
    for line in ("make quick", "marin-sft statsu", "python experiments/none.py", "python mine.py --dryrun", "wget x"):
        with pytest.raises((AssertionError, ValueError)):
            check(shlex.split(line))


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_what_a_page_names_is_there(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", [page for page in PAGES if "\n::: " in page.read_text()], ids=ids)
def test_what_the_reference_describes_is_there(page):
    for name in re.findall(r"^::: ([\w.]+)", page.read_text(), re.MULTILINE):
        assert pydoc.locate(name), name


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_the_paths_that_a_page_names_are_there(page):
    """`marin_sft/...` and its like in backticks."""
    for path in re.findall(r"`((?:marin_sft|tests|benchmarks|experiments|docs)/[\w/.*-]+)`", page.read_text()):
        assert list(ROOT.glob(path.rstrip("/"))), path


def test_every_page_is_in_the_navigation():
    listed = set(re.findall(r"^ +- (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE))
    assert listed == {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")}


def test_the_messages_of_troubleshooting_are_ours():
    """Each is quoted: its words stand in the sources, but for what is between quotation marks, numbers and "..."."""
    sources = [file.read_text() for folder in ("marin_sft", "experiments") for file in (ROOT / folder).rglob("*.py")]
    text = re.sub(r"\s+", " ", re.sub(r"\"\s+f?\"", "", "\n".join(sources)))
    headings = re.findall(r"^\*\*(.*)\*\*", (DOCS / "troubleshooting.md").read_text(), re.MULTILINE)
    quoted = [words for heading in headings for words in re.findall(r"`(.+?)`", heading)]
    assert len(quoted) > 15
    for words in quoted:
        for part in re.split(r"\.\.\.|'[^']*'|\b\d+\b|\bllama, mistral|\bGPU", words):
            assert part.strip(" :,.?()[]=") in text, words


def test_the_settings_that_users_of_other_trainers_are_pointed_to_are_there():
    """A name in the last column of a table, alone or before a `=`, is a field, or an argument of a step."""
    text = (DOCS / "coming-from.md").read_text()
    columns = [row.strip().strip("|").split(" | ")[-1] for row in text.splitlines() if row.startswith("| ")]
    named = {name for column in columns for code in re.findall(r"`(.+?)`", column) for name in NAME.findall(code)}
    assert len(named) > 30
    assert not (unknown := named - settings()), unknown


NAME = re.compile(r"\b[a-z]\w*(?==)|^[a-z_]+$")


def settings() -> set[str]:
    modules = (marin_sft, steps, data, resources, trackers)
    values = [value for module in modules for value in vars(module).values()]
    classes = [value for value in values if dataclasses.is_dataclass(value)]
    functions = [value for value in values if inspect.isfunction(value)]
    fields = {field.name for of in [*classes, LoraConfig, SimpleSFTConfig] for field in dataclasses.fields(of)}
    arguments = {name for function in functions for name in inspect.signature(function).parameters}
    return fields | arguments | {function.__name__ for function in functions}
