"""The step: counts, samples, bytes, thresholds."""

import json
import random
import re
import statistics
from pathlib import Path

import pytest

from marin_sft.data.formats import ChatLmDatasetFormat
from marin_sft.data.lint import lint as module
from marin_sft.data.lint.findings import FINDINGS
from marin_sft.data.lint.lint import lint
from marin_sft.data.step_configs import LintConfig, RowSource
from marin_sft.errors import ConfigError, DataError
from marin_sft.execution.executor import Executor, ExecutorFlags
from marin_sft.redaction import REDACTED
from marin_sft.steps import lint as lint_step
from marin_sft.steps import mixture, tokenize, transform

WORDS = "ask big cat dry eat far get hot ice joy key low mad new old put raw sad tea use via win yes zoo".split()


def question(n):
    """Questions that are all different, and not nearly the same."""
    return " ".join(random.Random(n).choices(WORDS, k=10)) + "?"


def chat(asked, answer="An answer of a usual length.", system=None):
    turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
    return {"messages": [{"role": "system", "content": system}, *turns] if system else turns}


def chats(count, start=0):
    return [chat(question(n), f"Answer {n} of a usual length.") for n in range(start, start + count)]


@pytest.fixture
def run(tmp_path, helpers):
    """Lints components, each a list of rows; returns findings.json and the samples."""

    def lint_rows(components, tests=None, out="out", **options):
        sources = {}
        for name, rows in {**components, **(tests or {})}.items():
            sources[name] = RowSource((helpers.write_jsonl(tmp_path / f"{name}.jsonl", rows),))
        named = {name: sources[name] for name in components}
        config = LintConfig(
            named, {name: sources[name] for name in tests or {}}, output_path=str(tmp_path / out), **options
        )
        lint(config)
        return read(tmp_path / out)

    return lint_rows


def read(out):
    report = json.loads(Path(out, "findings.json").read_text())
    samples = [json.loads(line) for line in Path(out, "findings.jsonl").read_text().splitlines()]
    return report, samples


def counts(report, component):
    return {name: one["count"] for name, one in report["components"][component]["findings"].items()}


def test_rows_without_faults(run):
    report, samples = run({"fine": chats(200)})
    assert report["rows"] == report["components"]["fine"]["rows"] == 200
    assert report["components"]["fine"]["findings"] == {} and samples == []
    assert report["components"]["fine"]["scripts"] == {"Latin": 200}


def test_copies_within_and_across_components(run):
    first = chats(60)
    first[10] = first[3]
    first[20] = chat(question(4), "Another answer.")
    second = [*chats(50, 100), chats(1, 7)[0], chat(question(8), "Other."), chat("Please: " + question(9), "Third.")]
    second += [chat(question(100), "Elsewhere."), second[50]]
    report, samples = run({"a": first, "b": second})
    assert counts(report, "a") == {"duplicate_rows": 1, "duplicate_prompts": 1}
    assert counts(report, "b") == {"duplicate_rows": 2, "duplicate_prompts": 2, "near_duplicate_prompts": 1}
    of_b = report["components"]["b"]["findings"]
    assert [of_b[name]["within"] for name in of_b] == [1, 1, 0]
    assert of_b["duplicate_rows"]["share"] == 2 / 55
    assert report["across"] == [
        {"finding": "duplicate_rows", "component": "b", "of": "a", "count": 2},
        {"finding": "duplicate_prompts", "component": "b", "of": "a", "count": 1},
        {"finding": "near_duplicate_prompts", "component": "b", "of": "a", "count": 1},
    ]
    where = {(s["component"], s["finding"], s["line"]): (s["other"]["component"], s["other"]["line"]) for s in samples}
    assert where == {
        ("a", "duplicate_rows", 11): ("a", 4),
        ("a", "duplicate_prompts", 21): ("a", 5),
        ("b", "duplicate_rows", 51): ("a", 8),
        ("b", "duplicate_rows", 55): ("a", 8),
        ("b", "duplicate_prompts", 52): ("a", 9),
        ("b", "duplicate_prompts", 54): ("b", 1),
        ("b", "near_duplicate_prompts", 53): ("a", 10),
    }
    assert samples[0]["file"] == "a.jsonl" and question(4) in {sample["text"] for sample in samples}


def test_equal_prompts_under_other_system_turns_are_no_copies(run):
    rows = [chat(question(n), f"Answer {n}.", system=f"You are number {k}.") for n in range(20) for k in range(2)]
    assert counts(run({"personas": rows})[0], "personas") == {}


def test_sums_in_one_template_are_no_copies(run):
    rows = [chat(f"What is {a} {sign} {b}?", str(a)) for a in range(12) for b in range(12) for sign in "+-*"]
    assert counts(run({"sums": rows})[0], "sums") == {}


def test_prompts_of_a_test_set(run):
    held = [chat(question(n)) for n in range(300, 340)]
    rows = [
        *chats(50),
        chat(f"Solve this: {question(301)}"),
        chat("Make a task.", f"Here: {question(302)}"),
        held[3],
        held[3],
    ]
    report, samples = run(
        {"mine": rows, "other": held[3:4]}, tests={"exam": held, "short": [{"question": "2 + 2", "answer": 4}]}
    )
    assert counts(report, "mine") == {"leaked_test_prompts": 4, "duplicate_rows": 1}
    assert report["test_sets"] == {"exam": {"prompts": 40, "leaked": 3}, "short": {"prompts": 1, "leaked": 0}}
    leaks = [(s["component"], s["line"]) for s in samples if s["finding"] == "leaked_test_prompts"]
    assert leaks == [("mine", 51), ("mine", 52), ("mine", 53), ("mine", 54), ("other", 1)]


def test_a_row_may_hold_several_test_prompts(run):
    held = [chat(question(n)) for n in range(300, 303)]
    rows = [*chats(5), chat("\n".join(f"Q: {question(n)}" for n in (300, 302)))]
    report, _ = run({"mine": rows}, tests={"exam": held})
    assert report["test_sets"]["exam"] == {"prompts": 3, "leaked": 2}
    assert counts(report, "mine") == {"leaked_test_prompts": 1}


def test_rows_without_text(run):
    report, _ = run({"tokens": [{"input_ids": [n, 2, 3], "labels": [n, 2, 3]} for n in range(60)], "mine": chats(3)})
    assert report["components"]["tokens"] == {
        "rows": 60, "textless": 60, "findings": {}, "scripts": {}, "lengths": {},
    }  # fmt: skip


def test_no_sample_shows_a_secret(run):
    token = f"hf_{'aB3' * 12}"
    marked = f"<|im_end|> {'x ' * 55}{token}"  # its surroundings end in the secret
    rows = [*chats(2), chat("word " * 300 + token), chat(marked), chat(marked)]
    report, samples = run({"mine": rows})
    assert counts(report, "mine") == {"secrets": 3, "special_tokens_in_text": 2, "duplicate_rows": 1}
    assert len(samples) == 6 and token[:8] not in json.dumps(samples)
    assert all(REDACTED in sample["text"] for sample in samples)


def test_rows_unlike_the_others(run):
    russian = chat("Почему небо голубое, а закат красный?", "Потому что свет рассеивается.")
    rows = [*chats(100), russian, chat(question(200), "word " * 400), chat(question(201) * 40)]
    report, samples = run({"mine": rows})
    usual = statistics.median(len(row["messages"][0]["content"]) for row in rows)
    assert counts(report, "mine") == {"script_outliers": 1, "length_outliers": 2}
    assert [(s["line"], s["message"]) for s in samples] == [
        (101, "mostly Cyrillic, while 99.0% of the component are Latin"),
        (102, "answer of 2,000 characters; the median is 28"),
        (103, f"prompt of {40 * len(question(201)):,} characters; the median is {usual}"),
    ]
    mixed = [row for n in range(50) for row in (chats(1, n)[0], chat(f"Вопрос номер {n} о погоде", f"Ответ {n}."))]
    assert counts(run({"mixed": mixed})[0], "mixed") == {}, "no script is the usual one"


def test_pairs(run):
    def pair(n, chosen, rejected):
        sides = {
            name: [{"role": "assistant", "content": text}]
            for name, text in (("chosen", chosen), ("rejected", rejected))
        }
        return {"prompt": [{"role": "user", "content": question(n)}], **sides}

    rows = [pair(n, "a longer answer" if n % 4 else "short", "an answer") for n in range(60)]
    rows += [pair(1, "an answer", "a longer answer"), pair(61, "same", "same"), pair(62, "same ", "same")]
    report, samples = run({"pairs": rows})
    assert counts(report, "pairs") == {"duplicate_prompts": 1, "swapped_pairs": 1, "equal_pairs": 2}
    bias = report["components"]["pairs"]["length_bias"]
    assert bias == {"pairs": 62, "longer": 46, "shorter": 16, "chosen_mean": 12.3, "rejected_mean": 9.0}
    (swapped,) = [sample for sample in samples if sample["finding"] == "swapped_pairs"]
    assert (swapped["line"], swapped["other"]["line"]) == (61, 2)
    with pytest.raises(DataError, match="longer_chosen 74.19%, at most 60.00% allowed"):
        run({"pairs": rows}, fail_above={"longer_chosen": 0.6})


def test_bytes_depend_on_rows_only(tmp_path, run, helpers, monkeypatch):
    rows = [*chats(90), *chats(30), chat(question(5), "<|im_end|>"), chat(question(6), ""), {"nothing": 1}]
    pairs = [{"prompt": question(7), "chosen": "a b", "rejected": rejected} for rejected in ("a  b", "a b")]
    rows += pairs * 6
    run({"mine": rows}, tests={"exam": chats(3, 40)}, out="one")
    monkeypatch.setattr(module, "ROWS_PER_BLOCK", 7)
    run({"mine": rows}, tests={"exam": chats(3, 40)}, out="two")
    assert helpers.tree_hash(tmp_path / "one") == helpers.tree_hash(tmp_path / "two")
    assert json.loads((tmp_path / "two/metrics.json").read_text())["duplicate_rows"] == 35


def test_lists_and_compressed_files_are_read_again_for_samples(tmp_path, helpers):
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows/a.json").write_text(json.dumps([*chats(30), *chats(2)]))
    helpers.write_jsonl(tmp_path / "rows/b.jsonl.gz", chats(3, 5))
    lint(LintConfig({"mine": RowSource((str(tmp_path / "rows"),))}, output_path=str(tmp_path / "out")))
    report, samples = read(tmp_path / "out")
    assert counts(report, "mine") == {"duplicate_rows": 5}
    places = [(s["file"], s["line"], s["other"]["file"], s["other"]["line"], s["text"]) for s in samples]
    assert places[0] == ("a.json", 31, "a.json", 1, question(0))
    assert places[2] == ("b.jsonl.gz", 1, "a.json", 6, question(5))
    assert sorted(path.name for path in (tmp_path / "out").rglob("*")) == [
        "findings.json",
        "findings.jsonl",
        "metrics.json",
    ]


def test_a_threshold_fails_after_writing(tmp_path, run):
    rows = [*chats(99), *chats(1)]
    run({"mine": rows}, fail_above={"duplicate_rows": 0.01})
    with pytest.raises(DataError) as caught:
        run(
            {"mine": rows, "fine": chats(99, 200)},
            fail_above={"duplicate_rows": 0.005, "empty_answers": 0.0},
            out="failed",
        )
    message = str(caught.value)
    assert "mine: duplicate_rows 1.00%, at most 0.50% allowed, as mine.jsonl:100: equal to another row" in message
    assert "fine: duplicate_rows 100.00%" not in message and "empty_answers" not in message
    assert counts(read(tmp_path / "failed")[0], "mine") == {"duplicate_rows": 1}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fail_above": {"duplicates": 0.1}}, "fail_above='duplicates'; expected one of"),
        ({"fail_above": {"duplicate_rows": 1.5}}, "fail_above['duplicate_rows']=1.5; expected a share"),
        ({"leak_words": 0}, "leak_words=0; expected a whole number"),
        ({"near_similarity": True}, "near_similarity=True; expected a share"),
    ],
)
def test_wrong_settings_are_refused(options, message):
    with pytest.raises(ConfigError) as caught:
        lint_step("mine", "rows.jsonl", **options)
    assert message in str(caught.value)


def test_data_that_cannot_be_looked_at(run):
    with pytest.raises(DataError, match="mine: no rows in"):
        run({"mine": []})
    with pytest.raises(DataError, match=r"test set 'exam': .*exam.jsonl:2: unknown_format"):
        run({"mine": chats(2)}, tests={"exam": [chat("a"), {"nothing": "b"}]})
    with pytest.raises(ConfigError, match="components is empty"):
        LintConfig({})


def test_steps_and_mixtures(tmp_path, helpers, tokenizer_path):
    """The rows of a mixture are those that its tokenize steps read, in their formats."""
    raw = tmp_path / "raw"
    helpers.write_jsonl(raw / "train.jsonl", [*chats(20), {"messages": []}])
    odd = [{"q": question(n), "a": "An answer <|end|>"} for n in range(3)]
    named = ChatLmDatasetFormat(shape="question_answer", columns={"question": "q", "answer": "a"})
    documents = transform("mine", str(raw), source="mine", max_dropped=0.5)
    tokens = {
        "chats": tokenize("chats", documents / "**/*.jsonl.gz", tokenizer=tokenizer_path),
        "odd": tokenize(
            "odd", helpers.write_jsonl(tmp_path / "odd.jsonl", odd), tokenizer=tokenizer_path, format=named
        ),
        "held": tokenize("held", str(raw), tokenizer=tokenizer_path),
    }
    blend = mixture("mine", tokens, weights={"chats": 1, "odd": 1}, seq_len=64)
    steps = [lint_step("blend", blend), lint_step("documents", documents)]
    assert steps[0].config.tokenizer == tokens["chats"].config.tokenizer
    run = Executor(ExecutorFlags(prefix=str(tmp_path / "store"), backend="inline")).run(steps)
    assert not run.failed and {node.name for node in run.graph.nodes} == {
        "documents/mine",
        "lint/blend",
        "lint/documents",
    }
    report, samples = read(run.output_path(steps[0]))
    assert report["components"].keys() == {"chats", "odd"} and report["components"]["chats"]["rows"] == 20
    assert counts(report, "odd") == {"special_tokens_in_text": 3, "duplicate_prompts": 3}
    assert counts(read(run.output_path(steps[1]))[0], "mine") == {}


def test_the_page_names_all_findings():
    text = (Path(__file__).parents[3] / "docs/guides/lint.md").read_text()
    assert re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE) == list(FINDINGS)
