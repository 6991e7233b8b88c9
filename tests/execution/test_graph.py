import dataclasses
import time
from typing import Any

import pytest

from marin_sft.errors import ConfigError, GraphError
from marin_sft.execution.executor import ExecutorStep, step_fn
from marin_sft.execution.graph import build_graph


@dataclasses.dataclass(frozen=True)
class Config:
    inputs: Any = ()


def body(config: Config) -> None: ...


def step(name: str, *inputs: Any, **fields: Any) -> ExecutorStep:
    return ExecutorStep(name, body, Config(list(inputs)), **fields)


def names(graph):
    return [node.name for node in graph]


def test_inputs_come_first_and_once():
    a = step("a")
    b, c = step("b", a), step("c", a, {"deep": (a / "x",)})
    graph = build_graph([step("d", c, b), b])
    assert names(graph) == ["a", "c", "b", "d"]
    assert [node.name for node in graph.roots] == ["d", "b"]


def test_equal_steps_are_one():
    graph = build_graph([step("b", step("a")), step("c", step("a"))])
    assert sorted(names(graph)) == ["a", "b", "c"]


def test_nonblocking_and_real_use():
    a = step("a")
    node = build_graph([step("b", a.nonblocking(), a / "x")]).roots[0]
    assert [n.name for n in node.inputs] == ["a"] and not node.nonblocking


def test_cycles_are_named():
    inputs: list[Any] = []
    a = ExecutorStep("a", body, Config(inputs))
    b = step("b", a)
    inputs.append(b)
    with pytest.raises(GraphError, match="cycle: 'a' uses 'b' uses 'a'"):
        build_graph([a])


def test_names_that_no_file_system_takes_are_refused():
    assert build_graph([step("a" * 244), step(f"{'a' * 255}/b")])
    for name in ("a" * 245, f"{'a' * 256}/b", "/".join(["a" * 200] * 5)):
        with pytest.raises(GraphError, match=r"step 'a{60}'\.\.\.: .* has \d+ bytes; expected at most \d+"):
            build_graph([step(name)])
    with pytest.raises(GraphError, match="has 260 bytes; expected at most 255 between two slashes"):
        build_graph([step("a", override_output_path=f"/x/{'é' * 130}")])


def test_two_steps_for_one_path():
    steps = [step("a", "1", override_output_path="x"), step("b", "2", override_output_path="x/")]
    with pytest.raises(GraphError, match=r"have the path 'x': 'a' and 'b' differ in config.inputs\[0\]: '1' and '2'"):
        build_graph(steps)


def test_two_functions_of_one_kind():
    @step_fn(kind="body")
    def other(config: Config) -> None:
        print("not the same")

    with pytest.raises(GraphError, match="steps 'a' and 'b' run different functions with the same kind 'body'"):
        build_graph([step("a"), ExecutorStep("b", other, Config())])


@pytest.mark.parametrize("name", ["", "/a", "a//b", "a/../b", "a/.hidden", "a b", "_runs", None])
def test_bad_names(name):
    with pytest.raises(GraphError, match="step name"):
        step(name)


def test_not_a_step():
    with pytest.raises(GraphError, match=r"steps\[0\]: expected an ExecutorStep, got str"):
        build_graph(["a"])  # type: ignore[list-item]


def test_a_chain_of_thousands_needs_no_recursion_and_little_time():
    chain = step("s0")
    for i in range(1, 5000):
        chain = step(f"s{i}", chain)
    begun = time.process_time()
    assert len(build_graph([chain]).nodes) == 5000
    assert time.process_time() - begun < 5


def test_a_token_in_a_config_is_refused_by_name():
    token = "hf_" + "a1B2" * 9
    for config, path in (({"key": token}, "config.key"), ({"a": [{"b": f"Bearer {token}"}]}, r"config.a\[0\].b")):
        with pytest.raises(ConfigError, match=f"step 'x' {path}: looks like a secret") as caught:
            build_graph([ExecutorStep("x", print, config)])
        assert token not in str(caught.value)
