"""Estimates from records of earlier attempts. The records are real; only the times in them are set by the tests."""

import dataclasses
import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from marin_sft.errors import UserError
from marin_sft.execution.comparison import Comparison
from marin_sft.execution.console import TextConsole
from marin_sft.execution.estimates import estimate
from marin_sft.execution.executor import (
    CpuConfig,
    Executor,
    ExecutorFlags,
    ExecutorStep,
    GpuConfig,
    TpuPodConfig,
    executor_main,
    step_fn,
    this_output_path,
)
from marin_sft.execution.graph import build_graph
from marin_sft.execution.local_store import LocalStore
from marin_sft.execution.past import PastAttempt, size_of
from marin_sft.execution.prices import Machines, Prices, machines_of, read_prices
from marin_sft.execution.record import asked
from marin_sft.execution.room import Room, wall_seconds
from marin_sft.execution.view import print_plan
from marin_sft.execution.work import Work
from marin_sft.training.sft_config import SFTConfig


@dataclasses.dataclass(frozen=True)
class RowsConfig:
    rows: int
    flavour: str = "plain"
    output_path: str = this_output_path()


@dataclasses.dataclass(frozen=True)
class CopyConfig:
    source: Any
    passes: int = 1
    fails: bool = False
    output_path: str = this_output_path()


@step_fn(kind="rows")
def make_rows(config: RowsConfig) -> None:
    Path(config.output_path, "rows.txt").write_text("row\n" * config.rows)


@step_fn(kind="apart", fresh_process=True)
def apart(config: object) -> None: ...


@step_fn(kind="copy")
def copy_rows(config: CopyConfig) -> None:
    if config.fails:
        raise ValueError("as asked")
    text = Path(config.source, "rows.txt").read_text()
    Path(config.output_path, "rows.txt").write_text(text * 2)


def rows(count: int, **fields: Any) -> ExecutorStep:
    return ExecutorStep("raw/rows", make_rows, RowsConfig(count, **fields))


def copied(count: int, resources: Any = None, **fields: Any) -> ExecutorStep:
    config = CopyConfig(rows(count), **fields)
    return ExecutorStep("copied/rows", copy_rows, config, resources=resources or CpuConfig())


def set_seconds(prefix: Path, seconds: Any) -> None:
    """seconds(record): of every attempt in the store."""
    for path in prefix.rglob(".record.json"):
        record = json.loads(path.read_text())
        path.write_text(json.dumps({**record, "seconds": seconds(record)}))


def row_count(record: dict[str, Any]) -> float:
    """Of the rows that an attempt read, or wrote if it read none, at four bytes a row."""
    read = sum(amounts["bytes"] for amounts in record["work"]["read"].values())
    return (read or record["work"]["made"]["bytes"]) / 4


def estimates(pipeline, *steps: ExecutorStep, **flags: Any) -> dict[str, Any]:
    return {name: item.estimate for name, item in pipeline.plan(*steps, **flags).items()}


def test_what_is_fixed_and_what_grows_is_known_after_three_sizes(pipeline):
    noise = iter([1.04, 0.97, 1.02, 0.96, 1.03, 0.99])
    for count in (1000, 2000, 4000):
        pipeline.run(copied(count))
    set_seconds(pipeline.prefix, lambda record: (60 + 0.01 * row_count(record)) * next(noise))
    for count in (1500, 8000):
        found = estimates(pipeline, copied(count))
        for one in found.values():  # the second step's input does not exist yet
            assert one["seconds"] == pytest.approx(60 + 0.01 * count, rel=0.2)
    assert found["copied/rows"]["ground"] == "3 runs of copy on 1 CPU"


def test_one_size_is_scaled_by_the_bytes_of_the_inputs(pipeline):
    pipeline.run(copied(1000))
    set_seconds(pipeline.prefix, lambda record: 50.0)
    pipeline.run(rows(3000))
    found = estimates(pipeline, copied(3000))["copied/rows"]
    assert found == {"seconds": 150.0, "cost": None, "ground": "1 run of copy on 1 CPU"}


def test_a_number_in_the_config_counts_if_the_times_grew_with_it(pipeline):
    for passes in (1, 2, 4):
        pipeline.run(copied(1000, passes=passes))
    set_seconds(pipeline.prefix, lambda record: 10 * record["payload"]["config"].get("passes", 1))
    assert estimates(pipeline, copied(1000, passes=8))["copied/rows"]["seconds"] == pytest.approx(80, rel=0.01)
    set_seconds(pipeline.prefix, lambda record: 30.0)
    assert estimates(pipeline, copied(1000, passes=8))["copied/rows"]["seconds"] == pytest.approx(30, rel=0.01)


@pytest.mark.parametrize(
    "times",
    [{2: 64.0, 4: 121.0}, {2: 64.0, 4: 121.0, 8: 92.5}, {2: 60.0, 4: 92.5, 8: 600.0}],
    ids=["two", "falling", "off"],
)
def test_a_number_in_the_config_counts_for_nothing_without_evidence(pipeline, times):
    """Times differ with any number by chance, e.g. because the machine was busy."""
    for passes in times:
        pipeline.run(copied(1000, passes=passes))
    set_seconds(pipeline.prefix, lambda record: times.get(record["payload"]["config"].get("passes"), 1.0))
    for passes in (1, 50):
        assert estimates(pipeline, copied(1000, passes=passes))["copied/rows"]["seconds"] == 92.5


def test_the_learning_rate_does_not_scale_a_training():
    inputs = {"mixture": {"$input": "0123456789abcdef"}, "num_train_epochs": 1.0}
    work = Work(read={"0123456789": {"bytes": 10.0, "tokens": 5000.0, "rows": 50.0}})

    def past(rate: float, seconds: float) -> PastAttempt:
        config = {**inputs, "learning_rate": rate}
        return PastAttempt("checkpoints/x", "sft", config, machines(CpuConfig()), seconds, work)

    for rate in (0.0005, 0.01):
        step = Comparison("checkpoints/x", {**inputs, "learning_rate": rate}, 5000.0, SFTConfig)
        assert step.seconds([past(0.001, 64), past(0.002, 121)]) == 92.5
        assert step.seconds([past(0.001, 64), past(0.002, 128), past(0.004, 256)]) == 128


def test_one_run_on_a_busy_machine_does_not_move_the_rest(pipeline):
    counts = (1000, 1500, 2000, 3000, 4000)
    for count in counts:
        pipeline.run(copied(count))
    set_seconds(
        pipeline.prefix, lambda record: (60 + 0.01 * row_count(record)) * (9 if row_count(record) == 2000 else 1)
    )
    found = estimates(pipeline, copied(2500))
    assert found["raw/rows"]["seconds"] == pytest.approx(85, rel=0.1)
    assert found["copied/rows"]["seconds"] == pytest.approx(85, rel=0.1)


def test_runs_of_the_same_name_are_preferred(pipeline):
    def named(name: str, count: int) -> ExecutorStep:
        return dataclasses.replace(rows(count), name=name)

    pipeline.run(named("raw/small", 1000), named("raw/large", 1001))
    set_seconds(pipeline.prefix, lambda record: {"raw/small": 1.0, "raw/large": 100.0}[record["name"]])
    found = estimates(pipeline, named("raw/small", 1002), named("raw/large", 1003), named("raw/new", 1004))
    assert [found[f"raw/{name}"]["seconds"] for name in ("small", "large", "new")] == [1.0, 100.0, 50.5]


def test_runs_with_the_same_flags_are_preferred(pipeline):
    for flavour, count in (("plain", 1000), ("slow", 1001)):
        pipeline.run(rows(count, flavour=flavour))
    set_seconds(pipeline.prefix, lambda record: {"plain": 5.0, "slow": 500.0}[record["config"]["flavour"]])
    assert estimates(pipeline, rows(1002))["raw/rows"]["seconds"] == pytest.approx(5)
    assert estimates(pipeline, rows(1002, flavour="slow"))["raw/rows"]["seconds"] == pytest.approx(500)


def test_what_is_unknown_is_said(pipeline, capsys):
    assert estimates(pipeline, copied(1000))["copied/rows"] is None  # in a new store, there is nothing to say
    pipeline.run(rows(1000))
    found = estimates(pipeline, copied(1000))["copied/rows"]
    assert found == {"seconds": None, "cost": None, "ground": "no earlier run of copy"}
    pipeline.run(copied(1000))
    set_seconds(pipeline.prefix, lambda record: 1.0)
    capsys.readouterr()
    pipeline.run(copied(2000, resources=TpuPodConfig(tpu_type="v4-8")), dry_run=True)
    text = capsys.readouterr().out
    assert "unknown: copied/rows (no earlier run of copy on v4-8)" in text
    assert "Estimate: at least " in text and "1 run of rows on 1 CPU" in text


@pytest.mark.parametrize("name", ["copied/seed0", "copied/unk/lr=0.001", "seed0", "elsewhere/rows"])
def test_runs_under_other_names_are_found_anywhere_in_the_store(pipeline, name):
    pipeline.run(dataclasses.replace(copied(1000), name="copied/mine/rows_seed0"))
    set_seconds(pipeline.prefix, lambda record: 40.0)
    found = estimates(pipeline, dataclasses.replace(copied(1000, passes=3), name=name))[name]
    assert found["seconds"] == pytest.approx(40) and found["ground"] == "1 run of copy on 1 CPU"


def test_runs_elsewhere_are_looked_for_only_if_there_are_none_near_and_few_are_read(pipeline, monkeypatch):
    pipeline.run(dataclasses.replace(copied(1000), name="copied/mine/rows"))
    (made,) = pipeline.prefix.glob("copied/mine/rows-*")
    for number in range(300):
        shutil.copytree(made, made.with_name(f"rows-{number:010x}"))
    looked, listed = [], []
    read, folders = LocalStore.read, LocalStore.folders
    monkeypatch.setattr(
        LocalStore,
        "read",
        lambda store, path: (looked.append(path) if ".record" in path else None) or read(store, path),
    )
    monkeypatch.setattr(LocalStore, "folders", lambda store, path: listed.append(path) or folders(store, path))
    elsewhere = dataclasses.replace(copied(1000, passes=3), name="copied/rows")
    assert estimates(pipeline, elsewhere)["copied/rows"]["seconds"] is not None
    assert 0 < len(looked) <= 48 and len(listed) <= 64 + 48
    listed.clear()
    near = dataclasses.replace(copied(1000, passes=3), name="copied/mine/rows")
    assert estimates(pipeline, near)["copied/mine/rows"]["seconds"] is not None
    assert str(pipeline.prefix / "copied") not in listed


def test_runs_elsewhere_on_other_machines_are_no_runs_here_and_the_total_is_unknown(pipeline, capsys):
    two_cpus = copied(1000, resources=CpuConfig(cpus=2))
    pipeline.run(dataclasses.replace(two_cpus, name="copied/mine/rows"))
    capsys.readouterr()
    pipeline.run(copied(1000, passes=3), dry_run=True)
    text = capsys.readouterr().out
    assert "Estimate: unknown, one step at a time\n  unknown: copied/rows (no earlier run of copy on 1 CPU)" in text


def test_a_total_of_nothing_is_unknown(pipeline, capsys):
    pipeline.run(rows(1000))
    set_seconds(pipeline.prefix, lambda record: 0.01)
    capsys.readouterr()
    pipeline.run(copied(2000), dry_run=True)
    text = capsys.readouterr().out
    assert "Estimate: unknown, one step at a time\n  from 1 run of rows on 1 CPU" in text and "at least" not in text


def test_at_80_columns_names_and_times_stay_whole(pipeline):
    pipeline.run(copied(1000))
    set_seconds(pipeline.prefix, lambda record: 100.0)
    run = Executor(ExecutorFlags(prefix=str(pipeline.prefix))).plan([copied(3000)])
    prices = Prices("prices.toml", "EUR", {"CPU": 36.0})
    screen = io.StringIO()
    print_plan(TextConsole(file=screen, width=80), run.plan, estimate(run.plan, prices, Room(1)))
    lines = [line.rstrip() for line in screen.getvalue().splitlines()]
    start = lines.index("step         action  time        cost  reason")
    assert lines[start + 1 : start + 5] == [
        "raw/rows     RUN     1 min 40 s  1.00  CONFIG",
        "  rows 1000 -> 3000",
        "copied/rows  RUN     1 min 40 s  1.00  UPSTREAM",
        "  raw/rows: rows 1000 -> 3000",
    ]
    assert lines[start + 5] == "Estimate: about 3 min 20 s, 2.00 EUR, one step at a time"
    assert lines[start + 6] == "  from 1 run of rows on 1 CPU, 1 run of copy on 1 CPU"


def test_failed_and_continued_attempts_tell_nothing(pipeline):
    with pytest.raises(Exception, match="1 step"):
        pipeline.run(copied(1000, fails=True))
    assert estimates(pipeline, copied(1000))["copied/rows"]["seconds"] is None
    pipeline.run(copied(1000))

    def as_if_continued(record):
        record["config"]["earlier_attempts"] = ["an/earlier/attempt"]
        record["work"].update(begun=500.0, done=1000.0, total=1000.0)
        return 3.0

    set_seconds(pipeline.prefix, as_if_continued)
    assert estimates(pipeline, copied(2000))["copied/rows"]["seconds"] is None


def test_a_damaged_record_is_passed_over(pipeline):
    pipeline.run(copied(1000))
    (path,) = pipeline.prefix.glob("copied/*/1/.record.json")
    for text in ("", "{}", '{"seconds": "long"}', "[" * 100_000):
        path.write_text(text)
        assert estimates(pipeline, copied(2000))["copied/rows"]["seconds"] is None


def test_cached_steps_cost_no_look_and_many_siblings_few(pipeline, monkeypatch):
    pipeline.run(copied(1000))
    (made,) = pipeline.prefix.glob("copied/rows-*")
    for number in range(300):
        shutil.copytree(made, made.with_name(f"rows-{number:010x}"))
    looked = []
    read = LocalStore.read
    monkeypatch.setattr(
        LocalStore,
        "read",
        lambda store, path: (looked.append(path) if ".record" in path else None) or read(store, path),
    )
    estimates(pipeline, copied(1000))
    assert looked == []
    assert estimates(pipeline, copied(2000))["copied/rows"]["seconds"] is not None
    assert 0 < len(looked) <= 96


def test_the_size_of_a_training():
    size = SFTConfig.size
    inputs = {"mixture": [{"bytes": 10, "tokens": 5000, "rows": 50}], "base_model": [{"bytes": 1e6}]}
    by_epochs = size({"num_train_epochs": 2.0, "num_train_steps": None, "train_batch_size": 10}, inputs)
    by_steps = size({"num_train_epochs": 1.0, "num_train_steps": 10, "train_batch_size": 10}, inputs)
    assert by_epochs == by_steps == 10_000 * 1e6


def test_an_input_that_had_not_ended_has_no_size():
    """A step that used a part of it early says nothing of how time grows."""
    config = {"model": {"$input": "0123456789abcdef"}}
    assert size_of(None, config, {"0123456789": {"bytes": 7}}) == 7
    assert size_of(None, config, {"0123456789": {"bytes": 0}}) is None


def test_what_began_before_its_input_had_ended_is_compared_by_its_time_alone():
    config = {"model": {"$input": "0123456789abcdef"}}

    def past(seconds: float, read: float) -> PastAttempt:
        work = Work(read={"0123456789": {"bytes": read}})
        return PastAttempt("evaluation/x", "generate", config, machines(CpuConfig()), seconds, work)

    step = Comparison("evaluation/x", config, 100.0, None)
    assert step.seconds([past(5, 0), past(7, 0), past(90, 0)]) == 7
    assert step.seconds([past(5, 0), past(20, 100)]) == 20  # the one whose size is known tells more
    unsized = Comparison("evaluation/x", config, None, None)
    assert unsized.seconds([past(5, 0)]) == 5 and unsized.seconds([past(20, 100)]) is None
    assert step.seconds([]) is None


PRICES = 'currency = "EUR"\n[device_hour]\nCPU = 0.5\nv4 = {on_demand = 3.0, spot = 1.0}\nH100 = 2.0\n'


def machines(resources: Any) -> Machines:
    found = machines_of(asked(resources))
    assert found is not None
    return found


def test_prices(tmp_path, monkeypatch):
    file = tmp_path / "prices.toml"
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MARIN_SFT_PRICES", raising=False)
    assert read_prices(None) is None
    file.write_text(PRICES)
    prices = read_prices(None)
    assert prices is not None and prices.text(12.5) == "12.50 EUR"
    costs = {
        CpuConfig(cpus=4): 2.0,
        TpuPodConfig(tpu_type="v4-8"): 12.0,
        TpuPodConfig(tpu_type="v4-64", slice_count=2): 192.0,
        GpuConfig(gpu_count=8, accelerator_type="H100", hosts=2): 32.0,
        GpuConfig(gpu_count=8): None,
    }
    assert {of: prices.cost(machines(of), 3600) for of in costs} == costs
    file.write_text(f"spot = true\n{PRICES}[host_hour]\nGPU = 7.0\n")
    spot = read_prices(None)
    assert spot is not None and spot.cost(machines(TpuPodConfig(tpu_type="v4-8")), 1800) == 2.0
    assert spot.cost(machines(GpuConfig(gpu_count=8, hosts=2)), 3600) == 14.0
    monkeypatch.setenv("MARIN_SFT_PRICES", str(tmp_path / "none.toml"))
    with pytest.raises(UserError, match=r"MARIN_SFT_PRICES .*none.toml: no such file"):
        read_prices(None)
    assert read_prices(str(file)) is not None


def test_the_example_is_a_table_of_prices():
    prices = read_prices(str(Path(__file__).parents[2] / "infra/prices.toml"))
    assert prices is not None and prices.cost(machines(TpuPodConfig(tpu_type="v5e-8")), 3600) == pytest.approx(9.6)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[device_hour", r"expected a table of prices in TOML"),
        ("curency = 'EUR'", r"unknown 'curency'; did you mean 'currency'\?"),
        ("[device_hour]\nH1000 = 1", r"device_hour.H1000: no such device; expected .*; did you mean 'H100'\?"),
        ("[device_hour]\nH100 = 'two'", r"device_hour.H100: expected a price of an hour, a number >= 0, got 'two'"),
        ("[device_hour]\nH100 = -1", "expected a price of an hour, a number >= 0, got -1"),
        ("[device_hour]\nH100 = nan", "expected a price of an hour"),
        ("[device_hour]\nH100 = {spot = 1}", r"expected a price, or { on_demand = 2.0, spot = 1.0 }"),
        ("[device_hour]\nv5e = 1\n[host_hour]\nv5litepod = 2", "v5litepod has a price in device_hour and in host_hour"),
        ("spot = 'yes'", "spot: expected true or false, got 'yes'"),
        ("device_hour = 3", "device_hour: expected prices by the names of devices, got 3"),
    ],
)
def test_prices_that_are_refused(tmp_path, text, message):
    file = tmp_path / "prices.toml"
    file.write_text(text)
    with pytest.raises(UserError, match=message):
        read_prices(str(file))


def test_a_budget_refuses_before_anything_runs(pipeline, tmp_path, capsys):
    (tmp_path / "prices.toml").write_text("[device_hour]\nCPU = 100.0\n")
    prices = ["--prices", str(tmp_path / "prices.toml"), "--prefix", str(pipeline.prefix), "--backend", "inline"]

    def code_of(*flags: str, step: ExecutorStep) -> tuple[Any, str]:
        with pytest.raises(SystemExit) as exit_:
            executor_main([step], argv=[*prices, *flags])
        return exit_.value.code, capsys.readouterr().err

    code, said = code_of("--budget", "200", step=copied(1000))
    assert code == 2 and "the cost of 2 step(s) is unknown: raw/rows (no earlier run of rows), copied/rows" in said
    pipeline.run(copied(1000))
    set_seconds(pipeline.prefix, lambda record: 3600.0)
    pipeline.bodies()
    code, said = code_of("--budget", "150", step=copied(1050))
    assert code == 2 and "--budget 150: the plan costs about 200.00" in said and "copied/rows 100.00" in said
    assert len(list(pipeline.prefix.glob("copied/rows-*/1"))) == 1
    code, said = code_of("--budget", "150", "--dry_run", step=copied(1050))
    assert code == 2
    code, said = code_of("--budget", "9", step=copied(1050, resources=GpuConfig()))
    assert "copied/rows (no earlier run of copy on 1 GPU)" in said
    executor_main([copied(1050)], argv=[*prices, "--budget", "250"])
    shown = capsys.readouterr().out
    assert "Estimate: about 2 h 00 min, 200.00, one step at a time" in shown
    assert len(list(pipeline.prefix.glob("copied/rows-*/1"))) == 2
    (tmp_path / "prices.toml").write_text("[device_hour]\nH100 = 1.0\n")
    code, said = code_of("--budget", "9", step=copied(1051))
    assert "has no price of CPU" in said


def test_a_budget_without_prices_is_refused(pipeline, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MARIN_SFT_PRICES", raising=False)
    with pytest.raises(UserError, match="there are no prices, so the cost is unknown; name a file of prices with"):
        pipeline.run(rows(1), budget=5.0)


def test_wall_time_follows_the_critical_path_in_the_room_that_there_is(pipeline):
    a = pipeline.step("a")
    b, c = pipeline.step("b", a), pipeline.step("c", a)
    graph = build_graph([pipeline.step("d", b, c)])
    seconds = {node: {"a": 1.0, "b": 10.0, "c": 20.0, "d": 100.0}[node.name] for node in graph}
    assert wall_seconds(seconds, Room()) == 121
    assert wall_seconds(seconds, Room(slots=1)) == wall_seconds(seconds, Room(cpus=1, gpus=0)) == 131
    assert wall_seconds(seconds, Room(cpus=2, gpus=0)) == 121
    assert Room(slots=1).text == "one step at a time"
    assert Room(None, 8, 0).text == "on the 8 cores of this machine"
    assert Room(4).text == "if all that is ready can run, at most 4 steps at once"


def test_a_process_of_its_own_has_to_start(pipeline):
    alone = ExecutorStep("alone", apart, {"out": this_output_path()})
    graph = build_graph([pipeline.step("user", alone)])
    seconds = dict.fromkeys(graph, 10.0)
    assert wall_seconds(seconds, Room(start=2.0)) == 22.0
    assert wall_seconds({**seconds, graph.node(alone): 0.0}, Room(start=2.0)) == 10.0, "nothing is known of it"
    assert Room.of("ray", True, None).start > Room.of("inline", True, None).start == 0
