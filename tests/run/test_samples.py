"""`marin-sft samples`: answers of evaluations, one or two side by side."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from marin_sft.evaluation.samples import FILE, write_samples
from marin_sft.execution.executor import Executor, ExecutorFlags, ExecutorStep, step_fn, this_output_path
from marin_sft.run import command

ANSWERS = {"before": ("cold", "far far far", "x\x1b[31m"), "after": ("cold", "far, small", "x\x1b[31m")}
FINISH = ("stop", "length", "stop")


def results(name: str) -> list[dict]:
    return [
        {"set": "opposites" if i < 2 else "others", "reference": "far, small" if i else "cold", "generation": answer}
        | {"finish": FINISH[i]}
        for i, answer in enumerate(ANSWERS[name])
    ]


def write(output: Path, name: str, model: str = "m", count: int = 3) -> str:
    prompts = [[{"role": "system", "content": "Be short."}, {"role": "user", "content": f"ask {i}"}] for i in range(3)]
    output.mkdir(parents=True, exist_ok=True)
    write_samples(str(output), model, prompts[:count], results(name)[:count])
    return str(output)


@step_fn(kind="writes_samples")
def evaluation(config: dict) -> None:
    write(Path(config["out"]), config["name"])


@pytest.fixture
def call(capsys):
    def run(*arguments: str, code: int = 0):
        capsys.readouterr()
        assert command.main(["samples", *arguments]) == code
        return capsys.readouterr()

    return run


def test_two_evaluations_side_by_side(call, tmp_path):
    one, other = write(tmp_path / "a", "before", "m/hf/step-40"), write(tmp_path / "b", "after", "m/hf/step-80")
    out = call(one, other).out
    blocks = out.split("\n\n")
    assert blocks[0].splitlines()[:4] == [
        "opposites 0",
        "system     Be short.",
        "user       ask 0",
        "reference  cold",
    ]
    assert blocks[0].splitlines()[-1] == "cold".ljust(41) + "cold"
    assert blocks[1].splitlines()[0] == "opposites 1 differs"
    assert blocks[1].splitlines()[-1] == "far far far [cut]".ljust(38) + " | far, small [cut]"
    assert "step 40" in blocks[0] and "step 80" in blocks[0]
    assert "\x1b" not in out and r"x\x1b[31m" in blocks[2]
    assert blocks[3].splitlines()[0] == "3 prompts, 1 answered differently"
    assert "".join(blocks[3].splitlines()[1:]) == f"1 answered exactly: {one}2 answered exactly: {other}"
    assert max(map(len, out.splitlines())) <= 80


def test_one_evaluation_its_sets_and_a_limit(call, tmp_path):
    one = write(tmp_path / "a", "before")
    assert "answer     far far far [cut]\n" in call(one).out
    limited = call(one, "--limit", "1").out
    assert "ask 0" in limited and "ask 1" not in limited and "2 more; --limit 3 shows them" in limited
    others = call(one, "--set", "others").out
    assert "others 0" in others and "opposites" not in others and "\n1 prompt\n" in others
    assert "--set other: " in (error := call(one, "--set", "other", code=2).err) and "did you mean 'others'?" in error


def test_as_json(call, tmp_path):
    one, other = write(tmp_path / "a", "before", "m/hf/step-40"), write(tmp_path / "b", "after")
    rows = json.loads(call(one, f"{other}/{FILE}", "--json", "--limit", "2").out)
    assert [(row["set"], row["index"], row["differs"]) for row in rows] == [
        ("opposites", 0, False),
        ("opposites", 1, True),
    ]
    assert rows[1]["messages"][-1] == {"role": "user", "content": "ask 1"} and rows[1]["reference"] == "far, small"
    assert rows[1]["answers"] == [
        {"answer": "far far far", "finish": "length", "step": 40},
        {"answer": "far, small", "finish": "length", "step": None},
    ]


def test_long_answers_are_folded_into_their_columns(call, tmp_path):
    texts = {"before": "word " * 40, "after": "温度 " * 30}
    for name, text in texts.items():
        row = {"set": "s", "reference": "r " * 100, "generation": text, "finish": "stop"}
        (tmp_path / name).mkdir()
        write_samples(str(tmp_path / name), "m", [[{"role": "user", "content": "q"}]], [row])
    from rich.cells import cell_len

    out = call(str(tmp_path / "before"), str(tmp_path / "after")).out
    assert max(map(cell_len, out.splitlines())) <= 80
    assert out.count("word") == 40 and out.count("温度") == 30


def test_prompts_of_one_evaluation_alone_are_counted(call, tmp_path):
    one, other = write(tmp_path / "a", "before"), write(tmp_path / "b", "after", count=2)
    assert call(one, other).out.endswith("1 prompt of only one of them left out\n")


def test_evaluations_without_a_common_prompt_are_refused(call, tmp_path):
    one, other = write(tmp_path / "a", "before"), write(tmp_path / "b", "after", count=2)
    path = Path(other, FILE)
    path.write_text(path.read_text().replace('"ask ', '"tell '))
    said = f"none of the 3 prompts of {one} and 2 prompts of {other} are the same"
    assert said in call(one, other, code=2).err and said in call(one, other, "--json", code=2).err
    alone = write(tmp_path / "c", "after", count=2)
    assert "of only one" not in call(one, alone, "--set", "opposites").out  # where only one has other sets, too
    assert f"--set others: {alone} has no such set" in call(one, alone, "--set", "others", code=2).err


@step_fn(kind="has_no_samples")
def table(config: dict) -> None:
    Path(config["out"], "table.txt").write_text("1")


def test_a_step_without_samples_names_those_that_have_some(call, tmp_path):
    before, after = (
        ExecutorStep(f"evaluation/{n}", evaluation, {"out": this_output_path(), "name": n}) for n in ANSWERS
    )
    of_one = ExecutorStep("evaluation/table", table, {"out": this_output_path(), "of": before})
    alone = ExecutorStep("hf/model", table, {"out": this_output_path()})
    Executor(ExecutorFlags(prefix=str(tmp_path), backend="inline")).run([before, after, of_one, alone])
    prefix = ("--prefix", str(tmp_path))
    error = call("evaluation/table", *prefix, code=2).err
    assert "evaluation/table-" in error and "has no answers to show: it was made from steps that have some: " in error
    assert "evaluation/before-" in error and "evaluation/after-" not in error
    assert "evaluation/after-" in call("hf/model", *prefix, code=2).err
    directory = next(tmp_path.glob("evaluation/before-*"))
    shown = call("evaluation/before", *prefix).out
    assert call(str(directory)).out.split("3 prompts")[0] == shown.split("3 prompts")[0]  # of a step in any store


def test_steps_are_found_by_their_names(call, tmp_path):
    steps = [ExecutorStep(f"evaluation/{n}", evaluation, {"out": this_output_path(), "name": n}) for n in ANSWERS]
    Executor(ExecutorFlags(prefix=str(tmp_path), backend="inline")).run(steps)
    out = call("evaluation/before", "evaluation/after", "--prefix", str(tmp_path)).out
    assert "opposites 1 differs" in out and "evaluation/before-" in out
    assert "did you mean" in call("evaluation/befor", "--prefix", str(tmp_path), code=2).err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "samples.jsonl: no such file; expected the output of an `evaluate` step"),
        ("", "samples.jsonl: no rows, expected at least one"),
        ("{}\n", "samples.jsonl:1: got {}, expected answer, finish"),
        ("{\n", "samples.jsonl:1: Expecting property name"),
    ],
)
def test_what_is_no_evaluation_is_said(call, tmp_path, content, message):
    if content is not None:
        (tmp_path / FILE).write_text(content)
    assert message in call(str(tmp_path), code=2).err


def test_a_reader_may_stop_early(tmp_path):
    rows = [{"set": "s", "reference": "r", "generation": "answer " * 50, "finish": "stop"}] * 2000
    write_samples(str(tmp_path), "m", [[{"role": "user", "content": "q"}]] * 2000, rows)
    shell = f"'{sys.executable}' -m marin_sft.run.command samples '{tmp_path}' --limit 2000 | head -1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", shell], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "s 0\n", "")
