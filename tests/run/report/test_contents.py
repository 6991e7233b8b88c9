"""What a report says, about launches that ended, failed and are running; from the store alone."""

import dataclasses
import json
import threading
import time
from pathlib import Path

import pytest

from marin_sft.errors import RunFailed, UserError
from marin_sft.execution.claims import Claim, take_claim, write_beat
from marin_sft.execution.clock import now
from marin_sft.execution.executor import Executor, ExecutorFlags, ExecutorStep, step_fn
from marin_sft.execution.prices import read_prices
from marin_sft.execution.process import ProcessIdentity
from marin_sft.execution.record import read_begin, read_launches
from marin_sft.execution.step import this_output_path, unversioned
from marin_sft.execution.stores import open_store
from marin_sft.run import command, launches
from marin_sft.run.report.command import report_contents
from marin_sft.run.report.contents import label
from marin_sft.run.report.evaluations import is_right
from marin_sft.run.report.subject import inputs_first, launch_facts
from tests.run.report.conftest import HOSTILE


@dataclasses.dataclass(frozen=True)
class WaitConfig:
    text: str
    inputs: tuple = ()
    while_there: str | None = unversioned(None)
    fails: bool = False
    output_path: str = this_output_path()


@step_fn(kind="report_wait")
def wait(config: WaitConfig) -> None:
    print(f"hf_{'a' * 30} {config.text}", flush=True)
    log = Path(config.output_path, "metrics.jsonl")
    log.write_text(json.dumps({"step": 1, "loss": 2.0, "tokens": 10, "tokens_per_second": 5.0}) + "\n")
    if config.while_there is not None:
        Path(f"{config.while_there}.begun").touch()
        while Path(config.while_there).exists():
            time.sleep(0.01)
    if config.fails:
        raise ValueError(f"told to fail {HOSTILE}")


@pytest.fixture(scope="session")
def found(launched):
    return report_contents(launched.store, [])


def by_name(found):
    return {step["name"]: step for step in found["steps"]}


def test_what_it_is(found, launched):
    (launch,) = found["launches"]
    assert found["about"] == "launch" and launch["status"] == "done" and launch["description"] == HOSTILE
    assert launch["python"] and launch["versions"]["jax"] == launch["packages"]["jax"]
    assert found["problems"] == [] and found["prefix"] == launched.prefix


def test_steps_with_what_they_use_and_why_they_ran(found):
    steps = by_name(found)
    blend = steps["mixtures/mine"]
    assert blend["inputs"] == [steps["tokenized/mine"]["directory"]]
    assert (blend["outcome"], blend["reason"], blend["kind"]) == ("ran", "NEW", "mixture")
    assert blend["config"]["seq_len"] == 512
    (attempt,) = blend["attempts"]
    assert attempt["claimed"] <= attempt["started"] <= attempt["ended"] and attempt["state"] == "committed"
    assert dict(blend["files"]).keys() >= {"mixture.json", "metrics.json"}
    assert blend["size"] == sum(size for _, size in blend["files"])
    assert blend["provenance"]["run"] == found["launches"][0]["run"]
    assert HOSTILE in steps["checkpoints/rate0.1"]["log"]["text"]


def test_curves_of_two_trainings_and_in_what_they_differ(found):
    one, other = found["trainings"]
    loss = one["metrics"]["loss"]
    assert loss["step"] == [1, 2, 4, 5, 6, 7, 8, 9, 10] and loss["gaps"] == 1
    assert loss["tokens"][-1] == 1000 and loss["seconds"][-1] == pytest.approx(one["summary"]["training_seconds"])
    assert loss["value"][0] == 5.1 and other["metrics"]["loss"]["value"][0] == 5.2
    assert one["unknown"] == ["mfu"]
    (difference,) = found["differences"]
    assert difference["fields"] == ["rate 0.1 -> 0.2"]


def test_data_with_trained_tokens_and_dropped_rows(found):
    (dataset,) = found["datasets"]
    train = dataset["splits"]["train"]
    assert (train["rows"], train["documents"]) == (63, 61)
    assert train["dropped"] == {row["reason"]: 2 for row in dataset["dropped"]} and len(dataset["dropped"]) == 2
    assert sum(train["lengths"]) == sum(train["trained"]) == 61
    last = train["samples"][-1]
    text = "".join(last["texts"])
    assert text.count(HOSTILE) == 2 and len(last["mask"]) == len(last["texts"]) == last["tokens"]
    trained = "".join(part for part, on in zip(last["texts"], last["mask"], strict=True) if on == "1")
    assert trained.startswith(HOSTILE) and "user" not in trained
    assert last["trained"] == last["mask"].count("1")


def test_a_mixture_and_how_often_its_trainings_saw_it(found):
    (blend,) = found["mixtures"]
    (stage,) = blend["stages"]
    assert stage["asked"] == stage["rows"] == stage["trained_tokens"] == {"mine": 1.0}
    assert [(user["name"], user["epochs"]) for user in blend["trainings"]] == [
        ("checkpoints/rate0.1", 2.0),
        ("checkpoints/rate0.2", 2.0),
    ]


def test_evaluations_of_the_same_prompts_side_by_side(found):
    (group,) = found["evaluations"]
    assert [step["name"] for step in group["steps"]] == ["evaluation/before", "evaluation/after"]
    assert group["metrics"][0] == {"name": "exact_match", "values": [0.0, 1.0]}
    assert group["sample_count"] == 40 and {sample["kind"] for sample in group["samples"]} == {"became right"}
    first, second = group["samples"][:2]
    assert (first["set"], second["set"]) == ("easy", "hard")
    assert [answer["text"] for answer in first["answers"]] == [f"{HOSTILE} False", f"{HOSTILE} True"]


def test_what_was_spent_with_failed_attempts(launched, found, tmp_path, capsys):
    assert found["cost"] is None and {step["cost"] for step in found["steps"]} == {None}
    prices = tmp_path / "prices.toml"
    prices.write_text('currency = "USD"\n[device_hour]\nCPU = 3600\n')
    told = report_contents(launched.store, [], read_prices(str(prices)))
    capsys.readouterr()
    assert command.main(["cost", "--prefix", launched.prefix, "--prices", str(prices), "--json"]) == 0
    of_command = json.loads(capsys.readouterr().out)
    assert told["cost"] == {"total": f"{of_command['cost']:,.2f} USD", "unknown": 0, "why": []}
    assert all(step["cost"].endswith(" USD") for step in told["steps"])


def test_exports_of_a_training_by_their_step(found):
    (table,) = found["export_tables"]
    match = table["metrics"]["held/exact_match"]
    assert (table["name"], match["step"], match["value"]) == ("evaluation/tiny_exports", [100, 200], [0.0, 1.0])


def test_right_answers_are_those_that_match_exactly():
    assert [is_right({"answer": answer, "reference": "a b"}) for answer in (" a b\n", "a  b", None)] == [
        True,
        False,
        None,
    ]
    assert is_right({"exact_match": False, "answer": "a", "reference": "a"}) is False


def test_a_step_with_all_that_it_was_made_from(launched):
    found = report_contents(launched.store, ["mixtures/mine"])
    assert found["about"] == "step" and found["title"] == "mixtures/mine"
    assert [step["name"] for step in found["steps"]] == ["tokenizers/tiny", "tokenized/mine", "mixtures/mine"]
    assert {step["reason"] for step in found["steps"]} == {"NEW"} and found["mixtures"] and not found["trainings"]


def test_an_experiment_file_also_of_steps_that_never_ran(launched, tmp_path):
    script = tmp_path / "mine.py"
    script.write_text(
        "from marin_sft.steps import train_tokenizer, tokenize\n"
        f"a = train_tokenizer('tiny', [{str(launched.folder / 'rows.jsonl')!r}], vocab_size=320)\n"
        f"b = tokenize('other', {str(launched.folder / 'rows.jsonl')!r}, tokenizer=a)\n"
    )
    steps = by_name(report_contents(launched.store, [str(script)]))
    assert steps["tokenizers/tiny"]["state"] == "COMMITTED" and steps["tokenized/other"]["outcome"] == "not run"
    assert steps["tokenized/other"]["inputs"] == [steps["tokenizers/tiny"]["directory"]]
    assert steps["tokenized/other"]["action"] == "RUN"


def test_what_is_neither_a_step_nor_a_launch(launched):
    with pytest.raises(UserError, match="neither a step nor a launch"):
        report_contents(launched.store, ["nothing_like_it"])


def test_a_failed_launch(tmp_path):
    prefix = str(tmp_path / "store")
    bad = ExecutorStep("bad", wait, WaitConfig("bad", fails=True))
    after = ExecutorStep("after", wait, WaitConfig("after", (bad,)))
    with pytest.raises(RunFailed):
        Executor(ExecutorFlags(prefix=prefix, backend="inline")).run([after])
    found = report_contents(open_store(prefix), [])
    steps = by_name(found)
    assert found["launches"][0]["status"] == "failed" and found["problems"] == []
    assert steps["bad"]["outcome"] == "failed" and steps["bad"]["failure"]["error"].endswith(HOSTILE)
    assert "hf_" not in steps["bad"]["log"]["text"], "a log may hold secrets, and a report is sent around"
    assert steps["after"]["outcome"] == "blocked" and steps["after"]["inputs"] == [steps["bad"]["directory"]]
    assert found["trainings"][0]["last"]["loss"] == 2.0, "of a training that failed, too"


def test_two_launches_compared(tmp_path):
    prefix = str(tmp_path / "store")
    for text in ("one", "two"):
        step = ExecutorStep("checkpoints/a", wait, WaitConfig(text))
        Executor(ExecutorFlags(prefix=prefix, backend="inline")).run([step])
    store = open_store(prefix)
    newest, oldest = (launch.name for launch in read_launches(store))
    found = report_contents(store, [oldest, newest])
    assert found["about"] == "several" and [launch["run"] for launch in found["launches"]] == [oldest, newest]
    (change,) = found["changes"]
    assert change["fields"] == ["text one -> two"] and change["name"] == "checkpoints/a"
    assert len({one["label"] for one in found["trainings"]}) == 2, "each with its fingerprint"
    assert {step["outcome"] for step in found["steps"]} == {"ran"}


def test_a_running_launch(tmp_path):
    prefix, flag = str(tmp_path / "store"), tmp_path / "flag"
    flag.touch()
    first = ExecutorStep("first", wait, WaitConfig("first", while_there=unversioned(str(flag))))
    then = ExecutorStep("then", wait, WaitConfig("then", (first,)))
    thread = threading.Thread(target=Executor(ExecutorFlags(prefix=prefix, backend="inline")).run, args=([then],))
    thread.start()
    try:
        while not Path(f"{flag}.begun").exists():
            assert thread.is_alive()
            time.sleep(0.01)
        found = report_contents(open_store(prefix), [])
    finally:
        flag.unlink()
        thread.join()
    steps = by_name(found)
    assert found["launches"][0]["status"] == "running"
    assert (steps["first"]["outcome"], steps["then"]["outcome"]) == ("running", "waiting")
    assert steps["then"]["inputs"] == [steps["first"]["directory"]], "before its first attempt"
    assert steps["first"]["attempts"][0]["ended"] is None and found["trainings"][0]["last"]["loss"] == 2.0


def test_a_lost_attempt_ends_with_its_last_sign_of_life(tmp_path):
    prefix = str(tmp_path / "store")
    step = ExecutorStep("a", wait, WaitConfig("a"))
    store = open_store(prefix)
    directory = Executor(ExecutorFlags(prefix=prefix, backend="inline")).plan([step]).graph.node(step).directory
    claim = take_claim(store, directory, 1, 1, "f" * 64)
    assert claim is not None
    owner = dataclasses.replace(ProcessIdentity.current(), start_time="0")  # a process that is gone
    path = Path(prefix, directory, "claims/000001.json")
    path.write_text(json.dumps(dataclasses.asdict(Claim(1, 1, claim.fingerprint, owner, now()))))
    write_beat(store, directory, claim, 1, None)
    Executor(ExecutorFlags(prefix=prefix, backend="inline")).run([step])
    lost, good = by_name(report_contents(store, []))["a"]["attempts"]
    assert (lost["state"], good["state"]) == ("lost", "committed")
    assert lost["claimed"] <= lost["ended"] <= good["claimed"]


def test_a_part_that_cannot_be_read_is_told(launched, tmp_path):
    prefix = str(tmp_path / "store")
    Executor(ExecutorFlags(prefix=prefix, backend="inline")).run([ExecutorStep("a", wait, WaitConfig("a"))])
    (commit,) = Path(prefix).glob("a-*/commits/*.json")
    commit.write_text("{")
    found = report_contents(open_store(prefix), [])
    assert len(found["problems"]) == 1 and str(commit) in found["problems"][0]


def test_the_same_from_an_object_store(launched, found, gcs):
    root = Path(launched.prefix)
    for file in root.rglob("*"):
        if file.is_file():
            gcs.put("bucket", f"store/{file.relative_to(root)}", file.read_bytes())
    there = report_contents(open_store("gs://bucket/store"), [])
    assert there["problems"] == []
    for section in ("trainings", "evaluations", "mixtures", "differences", "datasets", "export_tables"):
        assert there[section] == found[section], section
    assert [step["outcome"] for step in there["steps"]] == [step["outcome"] for step in found["steps"]]
    assert there["steps"][0]["output"].startswith("gs://bucket/store/")


def test_uncommitted_changes_are_named_but_not_shown(launched):
    store = launched.store
    diff = b"diff --git a/some/file.py b/some/file.py\n--- a/some/file.py\n+++ b/some/file.py\n-secret\n"
    store.create_private(store.path("_runs/x.diff"), diff)
    (launch,) = read_launches(store)
    begin = read_begin(store, launch)
    begin["launch"]["git_diff"] = "_runs/x.diff"
    facts = launch_facts(store, launch, begin, launches.details(store, launch))
    assert facts["changed_files"] == ["some/file.py"] and "secret" not in json.dumps(facts)
    begin["launch"]["git_diff"] = "_runs/gone.diff"
    assert launch_facts(store, launch, begin, {})["changed_files"] is None


def test_steps_of_one_name_have_their_fingerprint_too():
    items = [
        {"name": name, "step": step}
        for name, step in (("c/a", "c/a-1111aaaa11"), ("c/a", "c/a-2222bbbb22"), ("c/b", "c/b-33"))
    ]
    label(items)
    assert [item["label"] for item in items] == ["a 1111aa", "a 2222bb", "b"]


def test_numbers_that_json_lacks_are_words(tmp_path):
    prefix = str(tmp_path / "store")
    Executor(ExecutorFlags(prefix=prefix, backend="inline")).run([ExecutorStep("a", wait, WaitConfig("a"))])
    (output,) = Path(prefix).glob("a-*/1")
    (output / "metrics.json").write_text('{"loss": NaN, "first_loss": Infinity}')
    (output / ".files.json").unlink()
    found = report_contents(open_store(prefix), [])
    assert found["trainings"][0]["summary"] == {"loss": "nan", "first_loss": "inf"}
    json.dumps(found, allow_nan=False)


def test_inputs_stand_before_what_uses_them():
    assert inputs_first({"c": ("b", "a"), "b": ("a",), "a": ()}) == ["a", "b", "c"]
