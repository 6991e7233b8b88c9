"""`marin-sft fit`: whether the training steps of an experiment fit into the memory of their devices, and if not, which
settings near by do."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import re
import shlex
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.status import Status
from rich.text import Text

from marin_sft.data.files import read_json
from marin_sft.errors import ConfigError, TrainingError, UserError
from marin_sft.execution.configs import resolve
from marin_sft.execution.executor import Executor, ExecutorFlags
from marin_sft.execution.ray_environment import GPU_MEMORY
from marin_sft.execution.resources import GpuConfig, Resources, TpuPodConfig, device_count
from marin_sft.execution.step import AnyStep, EarlierAttempts, ExecutorStep, InputName
from marin_sft.execution.tables import Cell, print_table
from marin_sft.machines import GPU_SHARE, Device, device_of, devices
from marin_sft.nearest import listed, one_of
from marin_sft.run.experiment import steps_of
from marin_sft.run.model_shapes import ModelShapes
from marin_sft.training import host_memory, predicting
from marin_sft.training.described_devices import has_compiler
from marin_sft.training.dpo_config import DPOConfig
from marin_sft.training.lora_config import LoraConfig
from marin_sft.training.models.model_config import Fields
from marin_sft.training.nearest_settings import Setting
from marin_sft.training.predicting import Need
from marin_sft.training.sft_config import SFTConfig

_OWN_COMPILER = "Compiled for shapes alone, by XLA's compiler for these devices."
_HERE = "Compiled for shapes alone, by XLA's compiler for CPUs."
_STAND_IN = (
    "Compiled for shapes alone, by XLA's compiler for CPUs, with attention as large as on the device. Its own compiler "
    "often needs less. On Linux, `marin_sft[gpu]` and `marin_sft[tpu]` bring those, which need no such device."
)
_ERROR = 0.1
"""How far a prediction may be off."""
_PROCESS = int(0.7 * 2**30)
"""Bytes that Python, JAX and Levanter take of a host's memory, measured."""
_CPU = Device("CPU", "cpu", 0)
_MOST_ADVICE = 3  # settings that fit


@dataclass(frozen=True)
class Asked:
    """A training step. memory: bytes of a device that the program may take. capacity: the bytes by which training
    chooses what it recomputes. None: not known."""

    name: str
    setting: Setting
    shape: Fields
    reference: Fields | None
    device: str
    platform: str
    memory: int | None
    capacity: int | None

    def compiled_for(self, devices: int) -> str | None:
        """The device, if its own compiler is installed here."""
        return self.device if has_compiler(self.device, devices) else None


@dataclass(frozen=True)
class Answer:
    """near: settings that fit, if those of the step do not."""

    asked: Asked
    need: Need
    near: Sequence[tuple[Setting, Need]] = field(default=())

    @property
    def fits(self) -> bool | None:
        """None: the memory of the device is not known."""
        return None if self.asked.memory is None else _fits(self.need, self.asked.memory)


def answers(script: str, prefix: str, steps: str | None, device: str | None, count: int | None) -> list[Answer]:
    """For each training step whose name matches `steps`. A terminal shows what is being compiled.

    device, count: other devices than those of the steps' resources.

    Raises:
        UserError: no such file, step or device; or a model's shape is only known after a step has run.
        TrainingError, ConfigError: training would refuse the settings.
    """
    asked = _asked(script, prefix, steps, _known(device), count)
    with Console(stderr=True).status("planning") as status, _processes(status) as process:
        return [_answer(process, item) for item in asked]


def _answer(process: _Processes, asked: Asked) -> Answer:
    need = process.predict(asked, asked.setting)
    fits = asked.memory is None or _fits(need, asked.memory)
    return Answer(asked, need, () if fits else _near(process, asked, need))


def _known(name: str | None) -> Device | None:
    if name is None:
        return None
    found = _CPU if name.upper() == _CPU.name else device_of(name)
    if found is None:
        known = [_CPU.name, *devices()]
        raise UserError(f"--device {name!r}; expected {one_of(known, name)}")
    return found


def _asked(script: str, prefix: str, steps: str | None, device: Device | None, count: int | None) -> list[Asked]:
    found = {step.name: step for step in steps_of(script) if isinstance(step.config, SFTConfig | DPOConfig)}
    try:
        chosen = [step for name, step in found.items() if steps is None or re.search(steps, name)]
    except re.error as error:
        raise UserError(f"--steps {steps!r}: not a regular expression: {error}") from None
    if not chosen:
        names = f"; it has {listed(sorted(found), steps)}" if found else ""
        which = "training step" if steps is None else f"training step that matches {steps!r}"
        raise UserError(f"{script}: no {which} in a variable of the file, or among the inputs of one{names}")
    run = Executor(ExecutorFlags(prefix=prefix)).plan(chosen)
    models = ModelShapes(run, f"{shlex.join(['python', script, '--run_only'])} '{{}}'")
    in_order = [item.node.step for item in run.plan if item.node.step in chosen]
    return [_asked_of(step, models, device, count) for step in in_order]


def _asked_of(step: AnyStep, models: ModelShapes, device: Device | None, count: int | None) -> Asked:
    given: SFTConfig | DPOConfig = step.config
    reference = given.reference_model if isinstance(given, DPOConfig) else None
    plain: dict[str, Any] = {"lora": _adapter(given.lora), "hf_exports": None, "trackers": (), "expected_model": None}
    kept: dict[str, Any] = {"hf_exports_kept": None, "save_optimizer_state": False}
    config = resolve(replace(given, **plain, **kept), lambda leaf: _plain(leaf, models))
    setting = Setting(config, _row_length(given.mixture, config.mixture), count or device_count(step.resources))
    shape, compared = models.shape_of(given.base_model), None if reference is None else models.shape_of(reference)
    return Asked(step.name, setting, shape, compared, *_device(step.resources, device))


def _row_length(mixture: object, path: str) -> int:
    """Tokens in a row of a mixture step, or of the mixture that is at `path`."""
    step = mixture.step if isinstance(mixture, InputName) else mixture
    if isinstance(step, ExecutorStep):
        return int(resolve(step.config.seq_len, lambda leaf: leaf))
    return int(read_json(f"{path}/mixture.json")["seq_len"])


def _adapter(lora: LoraConfig | None) -> LoraConfig | None:
    """As large as the one to start from, if a step will make that."""
    source = None if lora is None else lora.adapter_path
    made_by = source.step if isinstance(source, InputName) else source
    if isinstance(made_by, ExecutorStep) and isinstance(made_by.config, SFTConfig | DPOConfig):
        return _adapter(made_by.config.lora)
    return lora


def _plain(leaf: object, models: ModelShapes) -> object:
    """The value in the step's config when it runs; for what is not there yet, some text."""
    if isinstance(leaf, EarlierAttempts):
        return ()
    if isinstance(leaf, ExecutorStep | InputName):
        step = leaf if isinstance(leaf, ExecutorStep) else leaf.step
        name = None if isinstance(leaf, ExecutorStep) else leaf.name
        found = name if step is None else models.run.output_path(step, name)
        return found or f"the output of {step.name if step else name}"
    return leaf if isinstance(leaf, str | int | float | bool | None) else str(leaf)


def _device(resources: Resources, device: Device | None) -> tuple[str, str, int | None, int | None]:
    """Name, platform, memory and capacity: see `Asked`."""
    if device is None and isinstance(resources, GpuConfig):
        device = None if resources.accelerator_type is None else device_of(resources.accelerator_type)
        if device is None:
            return resources.accelerator_type or "GPU", "gpu", None, None
    if device is None and isinstance(resources, TpuPodConfig):
        device = device_of(resources.tpu_type.partition("-")[0])
    if device in (None, _CPU):
        here = host_memory.capacity()
        asked = here if device == _CPU else resources.memory or here
        return _CPU.name, _CPU.platform, asked and asked - _PROCESS, here
    if device.platform != "gpu":
        return device.name, device.platform, device.memory, device.memory
    set_here = {**os.environ, **(resources.runtime_env.env_vars if resources.runtime_env else {})}
    taken = int(device.memory * float(set_here.get(GPU_MEMORY, GPU_SHARE)))
    return device.name, "gpu", taken, taken


class _Processes:
    """One process for each number of devices, since a process has so many."""

    def __init__(self, stack: ExitStack, status: Status) -> None:
        self._stack, self._status, self._pools = stack, status, dict[tuple[int, str, str | None], ProcessPoolExecutor]()

    def predict(self, asked: Asked, setting: Setting, most: int | None = None) -> Need:
        changes = f" with {', '.join(setting.changes)}" if setting.changes else ""
        self._status.update(escape(f"compiling {asked.name}{changes} for {setting.devices} {asked.device}"))
        key = (setting.devices, asked.platform, asked.compiled_for(setting.devices))
        if key not in self._pools:
            spawned = multiprocessing.get_context("spawn")
            pool = ProcessPoolExecutor(1, spawned, initializer=predicting.start, initargs=key)
            self._pools[key] = self._stack.enter_context(pool)
        return self._pools[key].submit(_predict, asked, setting, most).result()


def _predict(asked: Asked, setting: Setting, most: int | None) -> Need:
    """In a process for this."""
    from marin_sft.training.predicted_memory import Training, predict  # loads JAX
    from marin_sft.training.target import Target

    training = Training(setting.config, asked.shape, setting.length, asked.reference)
    return predict(training, Target(asked.platform, asked.capacity, asked.compiled_for(setting.devices)), most)


@contextmanager
def _processes(status: Status) -> Iterator[_Processes]:
    with ExitStack() as stack:
        yield _Processes(stack, status)


def _fits(need: Need, memory: int) -> bool:
    return need.peak is not None and need.peak <= memory


def _near(process: _Processes, asked: Asked, need: Need) -> Sequence[tuple[Setting, Need]]:
    """The first settings that fit: with one change. If there is none, with all that does not change the result, or one
    more; and if there is none, with an adapter, too."""
    first = asked.setting
    smallest = first.smallest()
    adapted = smallest.adapted()
    tried = {first.changes}
    for start in (first, smallest, *([adapted] if adapted else [])):
        if found := list(itertools.islice(_tried(process, asked, start, need, tried), _MOST_ADVICE)):
            return found
    return ()


def _tried(
    process: _Processes, asked: Asked, start: Setting, need: Need, tried: set[tuple[str, ...]]
) -> Iterator[tuple[Setting, Need]]:
    """`start`, or of each kind of change of it the first setting that fits. need: of the step's own. tried: the changes
    of settings before."""
    first = asked.setting
    memory = asked.memory
    assert memory is not None and need.peak is not None
    for kind in ([start], *start.nearest()):
        for setting in kind:
            share = setting.at_once * setting.length / (first.at_once * first.length)
            same = (setting.devices, setting.config.lora) == (first.devices, first.config.lora)
            hopeless = same and need.least + share * (need.peak - need.least) > memory
            if setting.devices != first.devices and asked.platform == "cpu":
                continue  # they would share its memory
            if setting.changes in tried or not setting.at_once or (hopeless and _rest_alike(setting, first)):
                continue
            tried.add(setting.changes)
            try:
                found = process.predict(asked, setting, memory)
            except (TrainingError, ConfigError):  # this model or these devices do not allow it
                continue
            if _fits(found, memory):
                yield setting, found
                if setting is start:
                    return
                break


def _rest_alike(setting: Setting, first: Setting) -> bool:
    """Whether only the number of tokens at once differs."""
    names = ("precision", "gradient_checkpointing")
    return all(getattr(setting.config, name) == getattr(first.config, name) for name in names)


def print_answers(console: Console, found: Sequence[Answer]) -> None:
    columns = ("step", "devices", "peak", "of", "fits", "weights", "optim.", "grads", "rest")
    console.print(Text("GiB on each device. rest: activations, and what one operation passes to the next", "dim"))
    print_table(console, columns, map(_row, found))
    for answer in found:
        if answer.fits is False:
            _print_advice(console, answer)
    for text in dict.fromkeys(map(_basis, found)):
        console.print(Text(text, "dim"))


def _basis(answer: Answer) -> str:
    asked = answer.asked
    if asked.compiled_for(asked.setting.devices) is not None:
        return _OWN_COMPILER
    return _HERE if asked.platform == "cpu" else _STAND_IN


def _row(answer: Answer) -> tuple[Cell, ...]:
    need, asked = answer.need, answer.asked
    assert need.peak is not None
    of = "?" if asked.memory is None else _gib(asked.memory)
    parts = (need.weights, need.optimizer, need.gradients, need.peak - need.least)
    devices = f"{asked.setting.devices} {asked.device}"
    return asked.name, devices, _gib(need.peak), of, _verdict(answer), *map(_gib, parts)


def _print_advice(console: Console, answer: Answer) -> None:
    asked, near = answer.asked, answer.near
    console.print(Text(f"{asked.name} does not fit" + (". What does:" if near else ""), "bold red"))
    for setting, need in near:
        assert need.peak is not None
        console.print(Text(f"  {', '.join(setting.changes)}: {_gib(need.peak)} GiB"))
    if not near:
        console.print(Text("  None of the changes that were tried fits; take a smaller model or larger devices"))


def _verdict(answer: Answer) -> Text:
    need, memory = answer.need, answer.asked.memory
    if memory is None or need.peak is None:
        return Text("?", style="yellow")
    if need.peak > memory:
        return Text("no", style="bold red")
    return Text("barely", style="yellow") if need.peak > (1 - _ERROR) * memory else Text("yes", style="green")


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f}"


def answer_json(answer: Answer) -> dict[str, object]:
    need, asked = answer.need, answer.asked
    sizes = {"weights": need.weights, "optimizer": need.optimizer, "gradients": need.gradients, "peak": need.peak}
    near = [{"changes": list(setting.changes), "peak": found.peak} for setting, found in answer.near]
    about = {"device": asked.device, "devices": asked.setting.devices, "memory": asked.memory}
    about["compiler"] = asked.compiled_for(asked.setting.devices) or "CPU"
    return {"name": asked.name, **about, **sizes, "fits": answer.fits, "near": near}
