"""`marin-sft cost`: what launches really spent. Only the times in the records are set by the tests."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from marin_sft.errors import RunFailed
from marin_sft.execution.claims import take_claim, write_beat
from marin_sft.execution.executor import CpuConfig, Executor, ExecutorFlags, ExecutorStep, step_fn, this_output_path
from marin_sft.execution.record import asked
from marin_sft.execution.resources import TpuPodConfig
from marin_sft.execution.stores import open_store
from marin_sft.run.command import main


@dataclasses.dataclass(frozen=True)
class OneConfig:
    number: int
    fail_while: str
    output_path: str = this_output_path()


@step_fn(kind="one")
def one(config: OneConfig) -> None:
    if Path(config.fail_while).exists():
        raise ValueError("as asked")


@pytest.fixture
def spent(tmp_path, capsys):
    """A store: `failing` failed once, for 100 s, and then took 50 s; `other` took 20 s, in the second launch."""
    prefix, fails = tmp_path / "store", tmp_path / "fails"
    prices = tmp_path / "prices.toml"
    prices.write_text('currency = "USD"\n[device_hour]\nCPU = 36.0\nv4 = 3600.0\n')

    def step(name: str, number: int = 0) -> ExecutorStep:
        return ExecutorStep(name, one, OneConfig(number, str(fails)), resources=CpuConfig(cpus=2))

    def run(*steps: ExecutorStep) -> None:
        Executor(ExecutorFlags(prefix=str(prefix), backend="inline")).run(list(steps))

    fails.touch()
    with pytest.raises(RunFailed):
        run(step("failing"))
    fails.unlink()
    run(step("failing"), step("other"))
    for pattern, seconds in (("failing-*/1", 100.0), ("failing-*/2", 50.0), ("other-*/1", 20.0)):
        (path,) = prefix.glob(f"{pattern}/.record.json")
        path.write_text(json.dumps({**json.loads(path.read_text()), "seconds": seconds}))
    capsys.readouterr()

    def cost(*words: str) -> Any:
        assert main(["cost", *words, "--prefix", str(prefix), "--prices", str(prices)]) == 0
        return capsys.readouterr().out

    def found(*words: str) -> dict[str, Any]:
        return json.loads(cost(*words, "--json"))

    return prefix, cost, found


def test_failed_attempts_count(spent):
    prefix, text, cost = spent
    found = cost()
    assert found["seconds"] == 170 and found["cost"] == pytest.approx(3.4) and found["currency"] == "USD"
    failing, other = found["steps"]
    assert (failing["name"], failing["attempts"], failing["failed"], failing["seconds"]) == ("failing", 2, 1, 150)
    assert failing["cost"] == pytest.approx(3.0) and failing["machines"] == "2 CPUs" and other["seconds"] == 20
    assert "2 (1 failed)" in text() and "2 steps, 3 attempts, 2 min 50 s in total, 3.40 USD" in text()


def test_of_one_launch(spent):
    prefix, _, cost = spent
    first, second = sorted(path.name.removesuffix(".begin.json") for path in (prefix / "_runs").glob("*.begin.json"))
    assert cost(first)["seconds"] == 100 and cost(second)["seconds"] == 70
    assert [step["name"] for step in cost(second)["steps"]] == ["failing", "other"]


def test_a_lost_attempt_counts_up_to_its_last_beat(spent):
    prefix, text, cost = spent
    store = open_store(str(prefix))
    resources = asked(TpuPodConfig(tpu_type="v4-8"))
    claim = take_claim(store, "lost-0123456789", 1, 1, "f", "a-launch", resources)
    write_beat(store, "lost-0123456789", claim, -1, None, released=True)
    path = prefix / "lost-0123456789" / "claims" / "000001.beat"
    beat = json.loads(path.read_text())
    path.write_text(json.dumps({**beat, "time": beat["time"] + 1000}))
    found = {step["name"]: step for step in cost()["steps"]}["lost"]
    assert found["lost"] == 1 and found["machines"] == "v4-8"
    assert found["seconds"] == pytest.approx(1000, abs=60) and found["cost"] == pytest.approx(4000, rel=0.06)
    assert "1 (1 lost)" in text()


def test_what_has_no_price_is_named(spent, tmp_path):
    _, text, cost = spent
    (tmp_path / "prices.toml").write_text("[device_hour]\nH100 = 1.0\n")
    assert "not in it: failing, other, since " in text() and "has no price of CPU" in text()
    assert cost()["unknown"] and cost()["steps"][0]["cost"] is None


def test_without_prices_times_are_summed(spent, tmp_path, monkeypatch, capsys):
    prefix, *_ = spent
    monkeypatch.chdir(tmp_path / "store")
    monkeypatch.delenv("MARIN_SFT_PRICES", raising=False)
    assert main(["cost", "--prefix", str(prefix)]) == 0
    shown = capsys.readouterr().out
    assert "2 steps, 3 attempts, 2 min 50 s in total, under" in shown and "not in it" not in shown
