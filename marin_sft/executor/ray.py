"""A script's `main` as a Ray task, in eformer's words.

    tpu_config = TpuAcceleratorConfig("v4-64", execution_env={"env_vars": {"HF_TOKEN": token}})

    @execute(tpu_config)
    @ray.remote
    def main(): ...

    if __name__ == "__main__":
        main()

`main` runs once. It holds no core and no accelerator, and JAX in it computes on the CPU, so that the trainings which it
starts get what the config asks for: `surrounding_resources`.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import tempfile
import threading
import traceback
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, ParamSpec, TypeVar

from marin_sft.errors import ConfigError, exit_code, place_in_script
from marin_sft.execution.attempt_log import process_output_copied_to
from marin_sft.execution.ray_connection import Connection, connect
from marin_sft.execution.ray_environment import LAUNCH_DIR, SECRETS, secrets_of_this_process
from marin_sft.execution.resources import Resources
from marin_sft.execution.terminal import early_end_allowed, write_log
from marin_sft.executor.accelerators import (
    AcceleratorConfig,
    CpuAcceleratorConfig,
    GpuAcceleratorConfig,
    TpuAcceleratorConfig,
)

__all__ = [
    "CpuAcceleratorConfig",
    "GpuAcceleratorConfig",
    "TpuAcceleratorConfig",
    "execute",
    "surrounding_resources",
]

Options = Mapping[str, Any]  # of a task, or of Ray's runtime_env
P = ParamSpec("P")
R = TypeVar("R")

_PATIENCE = 20.0  # seconds for an interrupted main to stop its steps
_LOOK = 0.1  # seconds between two looks at what it prints
_MAIN = "MARIN_SFT_MAIN"  # of main's runtime environment alone, so that its process has run nothing before
_surrounding: Resources | None = None


def surrounding_resources() -> Resources | None:
    """What the config of the surrounding `execute` gives to a training, with its environment. None outside a `main`."""
    return _surrounding


def execute(accelerator_config: AcceleratorConfig) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A decorator for a function, with or without `@ray.remote`. Calling it runs it as a Ray task and returns what it
    returns.

    What it prints is printed here. A Ray that this process is connected to is used, and left up. The variables of the
    config's `execution_env` are set in `main` and in all steps that it starts; Ray shows none that might hold a secret.
    Of the options of `@ray.remote`, `runtime_env` alone counts.

    Raises:
        ConfigError: not a config and a function.
        Exception: what the function raised; a note says where. SystemExit ends the script, as in the function.
    """
    if not isinstance(accelerator_config, AcceleratorConfig):
        raise ConfigError(
            f"execute: expected a CpuAcceleratorConfig, GpuAcceleratorConfig or TpuAcceleratorConfig, as in "
            f'@execute(TpuAcceleratorConfig("v4-64")); got {type(accelerator_config).__name__}'
        )

    def decorator(function: Callable[P, R]) -> Callable[P, R]:
        options = getattr(function, "_default_options", {})  # of Ray's RemoteFunction
        plain = getattr(function, "_function", function)
        if not callable(plain) or isinstance(plain, type):
            raise ConfigError(f"execute: expected a function, got {function!r}")

        @functools.wraps(plain)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            connection = connect()
            try:
                return _run(connection, accelerator_config, plain, options, args, kwargs)
            except KeyboardInterrupt:
                print("\nInterrupted. Finished steps are kept; the same command goes on", file=sys.stderr)
                raise KeyboardInterrupt from None  # without Ray's frames
            finally:
                connection.close()

        return call

    return decorator


@dataclass(frozen=True)
class _Script:
    """Of the process that called `main`: what `main` sees of it. `output`: the file that this process shows."""

    argv: list[str]
    file: str | None
    directory: str
    output: str

    @staticmethod
    def current(output: str) -> _Script:
        return _Script(sys.argv, getattr(sys.modules["__main__"], "__file__", None), os.getcwd(), output)

    def enter(self, runtime_env: Options) -> None:
        """A directory that Ray has shipped stays the current one; relative prefixes start from the script's own."""
        sys.argv = self.argv
        sys.modules["__main__"].__file__ = self.file
        os.environ.setdefault(LAUNCH_DIR, self.directory)
        if "working_dir" not in runtime_env and os.path.isdir(self.directory):
            os.chdir(self.directory)


class _Exit(Exception):
    """`sys.exit` in main, which would take Ray's worker down instead."""


def _run(
    connection: Connection,
    config: AcceleratorConfig,
    function: Callable[..., R],
    options: Options,
    args: tuple[object, ...],
    kwargs: dict[str, object],
) -> R:
    from ray import cloudpickle
    from ray.exceptions import RayTaskError

    ray, environment = connection.ray, config.environment
    _tell(function.__name__, config, options)
    arguments = [ray.get(value) if isinstance(value, ray.ObjectRef) else value for value in (*args, *kwargs.values())]
    named = dict(zip(kwargs, arguments[len(args) :], strict=True))
    # Neither may be unpickled before the process is set up: that can import what reads the environment, such as JAX.
    work = cloudpickle.dumps((function, arguments[: len(args)], named))
    runtime_env = _joined(options.get("runtime_env") or {}, environment.runtime_env, environment.visible)
    inherited = secrets_of_this_process()
    names = [*filter(None, inherited.get(SECRETS, "").split(",")), *environment.private]
    private = {**inherited, **environment.private, SECRETS: ",".join(dict.fromkeys(names))}
    remote = ray.remote(num_cpus=0, max_retries=0, max_calls=1)(_main)
    remote = remote.options(
        name=vars(config)["runtime_name"] or function.__name__,
        runtime_env=runtime_env,
        scheduling_strategy=_here(ray),
    )
    try:
        with _shown() as output:
            return _result(ray, remote.remote(work, config.resources, private, _Script.current(output)))
    except RayTaskError as error:
        cause = error.cause
        if isinstance(cause, _Exit):
            sys.exit(cause.args[0])
        raise (cause if isinstance(cause, Exception) else error) from None


def _result(ray: ModuleType, reference: object) -> Any:
    try:
        return ray.get(reference)
    except KeyboardInterrupt:  # main stops its steps, then
        ray.cancel(reference)
        if not ray.wait([reference], timeout=_PATIENCE)[0]:
            ray.cancel(reference, force=True)
        raise


@contextlib.contextmanager
def _shown() -> Iterator[str]:
    """The path of a file whose contents are printed as they come. Ray's own stream of what workers print adds process
    numbers, and loses its end when the script ends."""
    ended = threading.Event()
    with tempfile.NamedTemporaryFile(prefix="marin_sft_main_", suffix=".log") as file:

        def chunks() -> Iterator[bytes]:
            while True:
                last = ended.is_set()
                yield file.read()
                if last:
                    return
                ended.wait(_LOOK)

        def show() -> None:
            with early_end_allowed():
                write_log(chunks())

        thread = threading.Thread(target=show, daemon=True)
        thread.start()
        try:
            yield file.name
        finally:
            ended.set()
            thread.join()


def _joined(of_remote: Options, of_config: Options, visible: Mapping[str, str]) -> Options:
    variables = {**(of_remote.get("env_vars") or {}), **visible, _MAIN: uuid.uuid4().hex}
    return {**of_remote, **of_config, "env_vars": variables}


def _here(ray: ModuleType) -> object:
    """The node of the script, where its files are, if it is one of the cluster's."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)


def _tell(name: str, config: AcceleratorConfig, options: Options) -> None:
    """Name what was given and has no effect, once per call."""
    of_config = [f"{type(config).__name__}({unused})" for unused in config.unused()]
    of_remote = [f"@ray.remote({option})" for option in options if option not in ("runtime_env", "max_calls")]
    if of_config or of_remote:
        print(f"{name} runs once, without accelerator; without effect: {', '.join([*of_config, *of_remote])}")


def _main(work: bytes, resources: Resources, private: Mapping[str, str], script: _Script) -> object:
    """In a process of its own on Ray."""
    global _surrounding
    import ray

    os.environ.update(private)
    os.environ["JAX_PLATFORMS"] = "cpu"
    script.enter(ray.get_runtime_context().runtime_env)
    _surrounding = resources
    there = os.path.exists(script.output)  # not where main runs on another node: then Ray prints what it prints
    try:
        with process_output_copied_to(script.output, echo=False) if there else contextlib.nullcontext():
            function, args, kwargs = ray.cloudpickle.loads(work)
            return function(*args, **kwargs)
    except SystemExit as end:
        raise _Exit(end.code) from None
    except Exception as error:
        _note_place(error)
        raise


def _note_place(error: Exception) -> None:
    """Ray sends the error without its frames: they go along in words."""
    trace = error.__traceback__ and error.__traceback__.tb_next  # without the frame of `_main`
    place = "" if exit_code(error) is None else place_in_script(trace)
    with contextlib.suppress(AttributeError):  # an exception may have no room for notes
        error.add_note(place or f"On Ray:\n{''.join(traceback.format_tb(trace)).rstrip()}")
