"""A step: a name, a config that may refer to outputs of other steps, and the function that does the work. No I/O.

    @step_fn(kind="count_words", version=1)
    def count_words(config: CountConfig) -> None: ...

    words = ExecutorStep(
        name="stats/words",
        fn=count_words,
        config=CountConfig(documents=documents / "**/*.jsonl.gz", output_path=this_output_path()),
    )

If the function imports heavy libraries, the config can name it instead, so that planning does not import them.

    @dataclass(frozen=True)
    class CountConfig(StepConfig, kind="count_words", version=1, body="my_package.counting:count_words"): ...

    words = ExecutorStep(name="stats/words", config=CountConfig(...))
"""

from __future__ import annotations

import dataclasses
import fnmatch
import importlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, TypeVar

from marin_sft.arguments import NamedFields
from marin_sft.errors import ConfigError, GraphError
from marin_sft.execution.resources import CpuConfig, Resources

ConfigT = TypeVar("ConfigT")
FunctionT = TypeVar("FunctionT", bound=Callable[..., object])

_NAME = re.compile(r"[A-Za-z0-9][\w.=+@-]*(/[A-Za-z0-9][\w.=+@-]*)*", re.ASCII)
_BODY = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")


_NO_CONFIG: Any = object()


@dataclass(frozen=True, eq=False)
class ExecutorStep(Generic[ConfigT], metaclass=NamedFields):
    """One node of the DAG: `fn(config)` runs once, and its output is kept at `{prefix}/{name}-{fingerprint[:10]}`.

    fn: the function; omit it if the config names its body, see `StepConfig`.
    description, resources, override_output_path: not part of the step's identity.
    override_output_path: replaces `{name}-{fingerprint[:10]}`; a relative path is under the prefix.
    """

    name: str
    fn: Callable[[ConfigT], object] = None  # type: ignore[assignment]  # set below
    config: ConfigT = _NO_CONFIG
    description: str | None = None
    override_output_path: str | None = None
    resources: Resources = field(default_factory=CpuConfig)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise GraphError(
                f"step name {self.name!r}: expected segments of letters, digits and . _ = + @ - joined by '/', "
                "each starting with a letter or digit, e.g. 'tokenized/smoltalk'"
            )
        if self.config is _NO_CONFIG:
            raise ConfigError(
                f"step '{self.name}': got no config; expected ExecutorStep(name, fn, config), or ExecutorStep(name, "
                "config=...) with a config that names its body"
            )
        object.__setattr__(self, "fn", self._function())

    def _function(self) -> Callable[[ConfigT], object]:
        """`fn`, or the body that the config names."""
        of = type(self.config).__name__
        if not isinstance(self.config, StepConfig):
            if self.fn is None:
                raise ConfigError(f"step '{self.name}': got no fn, and {of} names no body; expected fn=...")
            return self.fn
        body = type(self.config).__step_body__
        if body is None:
            raise ConfigError(f"step '{self.name}': {of} names no body; expected class {of}(..., kind=..., body=...)")
        if self.fn not in (None, body):
            raise ConfigError(
                f"step '{self.name}': got fn={path_of_function(self.fn)}, but {of} names its body, {body.path}; omit fn"
            )
        return body

    def cd(self, name: str) -> InputName:
        """A path inside this step's output; the same as `step / "x"`. Globs are kept."""
        return InputName(self, name)

    __truediv__ = cd

    def nonblocking(self) -> InputName:
        """This step's output without waiting for it: as it is when the step that uses it starts."""
        return InputName(self, None, block_on_step=False)

    def optional(self) -> InputName:
        """This step's output, or None if the step fails, see `InputName.optional`."""
        return InputName(self, None).optional()

    def early(self, name: str) -> InputName:
        """A directory in this step's output, for use as soon as it is whole, see `InputName.early`."""
        return InputName(self, name).early()

    def as_input_name(self) -> InputName:
        return InputName(self, None)

    def __repr__(self) -> str:
        return f"ExecutorStep({self.name!r}, fn={getattr(self.fn, '__qualname__', self.fn)})"


AnyStep = ExecutorStep[Any]
"""A step with a config of any class."""


@dataclass(frozen=True, eq=False)
class InputName:
    """The output of `step`, or `name` inside it. Without a step: a fixed path, see `hardcoded`.

    is_early: use it as soon as it is whole. The same place is the same input whenever it is used, so this is not part
        of the identity.
    is_optional: do without it if its step fails.
    """

    step: AnyStep | None
    name: str | None
    block_on_step: bool = True
    is_early: bool = False
    is_optional: bool = False

    def cd(self, name: str) -> InputName:
        return dataclasses.replace(self, name=f"{self.name.rstrip('/')}/{name}" if self.name else name)

    __truediv__ = cd

    def nonblocking(self) -> InputName:
        return dataclasses.replace(self, block_on_step=False)

    def optional(self) -> InputName:
        """This output if its step ends well. A step that uses it waits until that step has ended in any way; if it
        failed, or could not begin, the config gets None. Once there is an output, the user runs again.

        Raises:
            ConfigError: no step makes it, or it is used before or without its step's end.
        """
        if self.step is None or not self.block_on_step or self.is_early:
            raise ConfigError(f"optional: expected a step's output that is waited for, got {self}")
        return dataclasses.replace(self, is_optional=True)

    def early(self) -> InputName:
        """This directory as soon as the running step declares it whole (`marin_sft.parts`), before the step ends.

        What was made from it counts once the step has committed the same files. If it commits others, because a later
        attempt did the work, what was made from it is made again.

        Raises:
            ConfigError: it is no place in a step's output, or one that does not wait for the step.
        """
        waits = self.block_on_step and not self.is_optional
        if self.step is None or not self.name or not waits or any(c in self.name for c in "*?["):
            raise ConfigError(f"early: expected a directory in a step's output, like step / 'hf/step-100', got {self}")
        return dataclasses.replace(self, name=self.name.strip("/"), is_early=True)

    @staticmethod
    def hardcoded(path: str) -> InputName:
        """A path that no step creates; a relative one is under the prefix. Only its text is part of the identity."""
        return InputName(None, path)


@dataclass(frozen=True)
class OutputName:
    """The attempt's own output directory, or `name` inside it."""

    name: str | None = None


@dataclass(frozen=True)
class EarlierAttempts:
    """The directories of earlier attempts to resume from, newest first. Not part of the identity.

    Until an attempt fills them in, there are none.
    """

    def __iter__(self) -> Iterator[str]:
        return iter(())


@dataclass(frozen=True, eq=False)
class UnversionedValue(Generic[ConfigT]):
    """A value that `unversioned` excludes from the identity."""

    value: ConfigT


def output_path_of(step: AnyStep, name: str | None = None) -> InputName:
    """The output of `step`, or `name` inside it, for use in another step's config."""
    return InputName(step, name)


def this_output_path(name: str | None = None) -> Any:
    """In a config: the directory that this step writes to. Typed Any, since it becomes a string."""
    return OutputName(name)


THIS_OUTPUT_PATH = this_output_path()


def earlier_attempts() -> Any:
    """In a config: a tuple of directories to resume from, newest first. It becomes strings."""
    return EarlierAttempts()


def versioned(value: ConfigT) -> ConfigT:
    """Returns the value. For compatibility with Marin: every config value is part of the identity anyway.

    Raises:
        ConfigError: a step, or a value marked with `unversioned`, as in Marin.
    """
    if isinstance(value, UnversionedValue | InputName | ExecutorStep):
        raise ConfigError(f"versioned({value!r}): expected a plain value; steps always count")
    return value


def unversioned(value: ConfigT) -> ConfigT:
    """Exclude this value from the step's identity: changing it reruns nothing."""
    return UnversionedValue(value)  # type: ignore[return-value]


def execution_only(**kwargs: Any) -> Any:
    """A dataclass field that cannot change the output, except for rounding. It is not part of the identity.

    Takes the arguments of `dataclasses.field`.
    """
    return field(**kwargs, metadata={"execution_only": True})


def omitted_when(value: object, **kwargs: Any) -> Any:
    """A dataclass field added after outputs exist. It is not part of the identity while it equals `value`.

    Never change `value`, even if the default changes. Takes the arguments of `dataclasses.field`.
    """
    return field(**kwargs, metadata={"omitted_when": value})


@dataclass(frozen=True)
class StepKind:
    """What `step_fn`, or a config that names its body, declares about a function."""

    kind: str
    version: int
    fresh_process: bool
    log: tuple[str, ...] = ()
    one_host: bool = False
    torch: bool = True

    def keeps_log(self, path: str) -> bool:
        """Whether a file of the output, given by its path in it, belongs to the step's log."""
        return any(fnmatch.fnmatchcase(path, pattern) for pattern in self.log)

    def has_log_at(self, place: str) -> bool:
        """Whether a file, directory or glob in the output is or holds a file of the step's log."""
        inside = any(fnmatch.fnmatchcase(log, place) or log.startswith(f"{place.rstrip('/')}/") for log in self.log)
        return inside or self.keeps_log(place)


@dataclass(frozen=True)
class Body:
    """A step's function by its import path, `module:function`. It is imported when it is called."""

    path: str
    kind: StepKind

    @property
    def module(self) -> str:
        return self.path.partition(":")[0]

    @property
    def name(self) -> str:
        return self.path.partition(":")[2]

    def __call__(self, config: object) -> object:
        return self.function()(config)

    def function(self) -> Callable[[object], object]:
        return getattr(importlib.import_module(self.module), self.name)

    def __repr__(self) -> str:
        return self.path


SizesOfInputs = Mapping[str, Sequence[Mapping[str, float]]]
"""By the config's fields, for each output that a field refers to: its `bytes`, and the `tokens`, `rows` and `documents`
that its metrics.json counts."""


def total(inputs: SizesOfInputs, *fields: str, of: str = "bytes") -> float:
    """The sum over the outputs in these fields; of their bytes if they do not count `of`."""
    return sum(sizes.get(of, sizes["bytes"]) for field in fields for sizes in inputs.get(field, ()))


class StepConfig(metaclass=NamedFields):
    """Base of configs that name the function that does the work, so that their steps need no `fn`.

    @dataclass(frozen=True)
    class CountConfig(StepConfig, kind="count_words", version=1, body="my_package.counting:count_words"): ...

    kind, version, fresh_process, log, one_host, torch: as in `step_fn`.
    body: the function, as "module:function". The process that runs the step imports it; planning does not.

    A subclass without a body inherits that of its base.
    """

    __step_body__: ClassVar[Body | None] = None
    TABLE: ClassVar[str | None] = None
    """A file of the output, for people. A failed launch ends with it: the script, which may show it, does not go on."""

    def __init_subclass__(
        cls,
        *,
        kind: str | None = None,
        version: int = 1,
        body: str | None = None,
        fresh_process: bool = False,
        log: tuple[str, ...] = (),
        one_host: bool = False,
        torch: bool = True,
    ) -> None:
        super().__init_subclass__()
        if (kind, version, body, fresh_process, log, one_host, torch) == (None, 1, None, False, (), False, True):
            return
        if kind is None or body is None or not _BODY.fullmatch(body):
            raise ConfigError(
                f'class {cls.__name__}: got kind={kind!r} and body={body!r}; expected both, as kind="count_words" and '
                'body="my_package.counting:count_words"'
            )
        cls.__step_body__ = Body(body, StepKind(kind, version, fresh_process, log, one_host, torch))

    @classmethod
    def size(cls, config: Mapping[str, Any], inputs: SizesOfInputs) -> float:
        """How large a step is, in a unit that its time grows with, for estimates. By itself: the bytes of its inputs.

        config: that of the step's identity, as JSON. inputs: those that are outputs of steps.
        """
        return total(inputs, *inputs) or 1.0

    def advice(self, resources: Resources) -> str | None:
        """A line below a plan in which such a step runs on these. None: there is nothing to say."""
        return None

    def told(self) -> Mapping[str, Any] | None:
        """What a report says of the step before it has run, as JSON. None: there is nothing to say."""
        return None

    def when_blocked(self) -> str | None:
        """What else to do than to run a failed input again. None: there is nothing to say."""
        return None


def step_fn(
    *,
    kind: str,
    version: int = 1,
    fresh_process: bool = False,
    log: tuple[str, ...] = (),
    one_host: bool = False,
    torch: bool = True,
) -> Callable[[FunctionT], FunctionT]:
    """Declare the identity of a step function.

    kind: its name in the identity.
    version: raise it when the function's output changes; code is not hashed.
    fresh_process: run the step in a new worker process, e.g. so that JAX does not stay loaded for the next step.
    log: patterns of the output's files that say how it was made, such as speeds. They are not part of the result: if a
        forced rerun changes only these, later steps stay cached, unless they use such a file by name.
    one_host: resources with several hosts are refused.
    torch: False: the function does not need PyTorch, so transformers and datasets do not import it where it is
        installed, which takes them seconds.
    """

    def mark(function: FunctionT) -> FunctionT:
        function.__step_kind__ = StepKind(kind, version, fresh_process, log, one_host, torch)  # type: ignore[attr-defined]
        return function

    return mark


def kind_of(fn: Callable[..., object]) -> StepKind:
    """The kind and version of a step function, from its config's class or `step_fn`, else its qualified name and 1.

    Raises:
        ConfigError: a lambda, partial or closure, since its name does not identify it.
    """
    declared = fn.kind if isinstance(fn, Body) else getattr(fn, "__step_kind__", None)
    if declared is not None:
        return declared
    name = getattr(fn, "__qualname__", None)
    if name is None or name.endswith("<lambda>") or getattr(fn, "__closure__", None):
        raise ConfigError(
            f"fn: expected a function that its name identifies, got {fn!r}; "
            "move it to module level and its values into the config, or name it with @step_fn(kind=...)"
        )
    return StepKind(name, 1, False)


def path_of_function(fn: Callable[..., object]) -> str:
    """`module.function` of a function or a `Body`."""
    return f"{fn.module}.{fn.name}" if isinstance(fn, Body) else f"{fn.__module__}.{getattr(fn, '__qualname__', fn)}"
