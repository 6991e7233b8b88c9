"""Command lines of the trainers: `marin-sft sft` and `dpo`, `train_sft.py`, and EasyDeL's scripts.

Flags are the spellings of `settings`, and those of the executor. `--config FILE.yaml` holds more of them; flags win.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from marin_sft.errors import MarinSftError, RunFailed, UserError, debugging
from marin_sft.execution import flags as executor_flags
from marin_sft.execution.flags import BOOLEAN_WORDS, ExecutorFlags, parse_flags
from marin_sft.execution.resources import GpuConfig, Resources, TpuPodConfig
from marin_sft.execution.terminal import complain, early_end_allowed
from marin_sft.nearest import nearest
from marin_sft.trainers import torchrun
from marin_sft.trainers.configs import SFTConfig
from marin_sft.trainers.enums import CHECKPOINTERS
from marin_sft.trainers.results import TrainResult
from marin_sft.trainers.settings import (
    BY_NAME,
    BY_SPELLING,
    NO_EFFECT,
    REFUSED,
    SETTINGS,
    Dialect,
    Group,
    Setting,
    Value,
    setting_named,
)
from marin_sft.trainers.trainer import DPOTrainer, SFTTrainer
from marin_sft.version import version_text

_OWN = {
    "config": "a YAML file with more of these settings; flags win",
    "tpu_type": "train on a TPU slice of a Ray cluster: v4-64",
    "gpu_count": "train on so many GPUs of one machine of a Ray cluster",
}
_WIDTH = 30
_SMALL = 32 * 2**20  # bytes
WriteExperiment = Callable[[SFTTrainer, str], None]


def sft_command(argv: Sequence[str], dialect: Dialect, program: str, write: WriteExperiment | None = None) -> int:
    """Train as the flags say; the exit code: 0 done, 1 a step failed, 2 a user's mistake, 130 interrupted.

    write: writes the trainer's steps to the file that `--experiment_out` names.
    """
    return _command(SFTTrainer, argv, dialect, program, write)


def dpo_command(argv: Sequence[str], dialect: Dialect, program: str, write: WriteExperiment | None = None) -> int:
    """Train on preferences as the flags say. Otherwise as `sft_command`."""
    return _command(DPOTrainer, argv, dialect, program, write)


def dialect_of(argv: Sequence[str]) -> Dialect:
    """Whose defaults hold for flags of `marin-sft`: ours with our own `--data` and `--model`, else TRL's."""
    named = {word.partition("=")[0] for word in argv}
    return Dialect.OURS if {"--data", "--model"} & named or not argv or named & {"-h", "--help"} else Dialect.TRL


def _command(
    trainer_class: type[SFTTrainer],
    argv: Sequence[str],
    dialect: Dialect,
    program: str,
    write: WriteExperiment | None,
) -> int:
    if {"-h", "--help"} & set(argv):
        with early_end_allowed():
            print(help_text(trainer_class.config_class.pairs, dialect, program, everything="all" in argv))
        return 0
    if "--version" in argv:
        print(version_text())
        return 0
    try:
        if torchrun.waits():
            return torchrun.exit_code_of_first()
        with torchrun.telling_the_others() as told:
            told.code = _train(trainer_class, argv, dialect, program, write)
            return told.code
    except RunFailed:
        return 1
    except MarinSftError as error:
        if debugging():
            raise
        return complain(error, 2 if isinstance(error, UserError) else 1)
    except KeyboardInterrupt:
        return 130


def _train(
    trainer_class: type[SFTTrainer],
    argv: Sequence[str],
    dialect: Dialect,
    program: str,
    write: WriteExperiment | None,
) -> int:
    words, file = _without_experiment_out(argv, program, write)
    trainer = trainer_of(trainer_class, words, dialect, program)
    if write is not None and file is not None:
        write(trainer, file)
    result = trainer.train()
    if result is not None:
        print(summary(result))
    return 0


def trainer_of(trainer_class: type[SFTTrainer], argv: Sequence[str], dialect: Dialect, program: str) -> SFTTrainer:
    """The trainer that a command line asks for. Raises as `parse` and the trainer."""
    given = parse(argv, trainer_class.config_class, program)
    values = given.config.values(dialect)
    missing = [BY_NAME[name] for name in ("model", "data") if not values[name]]
    if missing:
        expected = " and ".join(f"--{_shown_name(setting, dialect)}" for setting in missing)
        raise UserError(f"{program}: expected {expected}; {program} --help lists the flags")
    torchrun.check_devices(given.resources)
    flags = given.flags
    chosen = any(word.partition("=")[0] == "--backend" for word in argv) or given.resources is not None
    if dialect is Dialect.OURS and not chosen and "RAY_ADDRESS" not in os.environ and _is_small(str(values["data"])):
        flags = replace(flags, backend="inline")
    return trainer_class(given.config, resources=given.resources, flags=flags, dialect=dialect)


def _is_small(data: str) -> bool:
    """Whether starting Ray and a process for each step would take longer than tokenizing a file in one process."""
    path = os.path.expanduser(data)
    return os.path.isfile(path) and os.path.getsize(path) < _SMALL


def _without_experiment_out(
    argv: Sequence[str], program: str, write: WriteExperiment | None
) -> tuple[list[str], str | None]:
    """The other flags, and the file that `--experiment_out` names."""
    kept, file, words = list[str](), None, iter(argv)
    for word in words:
        name, equals, value = word.partition("=")
        if name != "--experiment_out":
            kept.append(word)
            continue
        file = value if equals else next(words, "")
        if not file or file.startswith("--"):
            raise UserError("--experiment_out: expected the name of a file to write")
        if write is None:
            raise UserError(f"{program}: --experiment_out is a flag of marin-sft sft and marin-sft dpo")
    return kept, file


def summary(result: TrainResult) -> str:
    """How it went, where the model is, and how to use it."""
    where = result.output_dir or result.checkpoint_path
    figures, lines = result.metrics, [f"{result.global_step} steps, loss {result.history[-1]['loss']:.4g}"]
    before, after = figures.get("before/validation/loss"), figures.get("validation/loss")
    if after is not None:
        lines.append(f"loss on held-out rows: {'' if before is None else f'{before:.4g} before, '}{after:.4g} after")
    lines += [f"model: {where}", f"chat with it: marin-sft chat {where}", f"serve it: vllm serve {where}"]
    return "\n".join(lines)


@dataclass(frozen=True)
class Parsed:
    """What a command line says."""

    config: SFTConfig
    flags: ExecutorFlags
    resources: Resources | None


def parse(argv: Sequence[str], config_class: type[SFTConfig], program: str) -> Parsed:
    """Read flags, and the file that `--config` names.

    Raises:
        UserError: an unknown flag, with the nearest; a value of the wrong kind; a file that cannot be read.
    """
    said: dict[str, Value] = {}
    own: dict[str, str] = {}
    executor: list[str] = []
    for flag in _flags(argv, program):
        if flag.name in executor_flags.HELP:
            executor += [f"--{flag.name}", *flag.values]
        elif flag.name in _OWN:
            own[flag.name] = flag.one()
        elif flag.name in NO_EFFECT or flag.name in REFUSED:
            said[flag.name] = BOOLEAN_WORDS.get(flag.values[0].lower(), flag.values[0]) if flag.values else True
        else:
            setting = setting_named(flag.name, program)
            assert setting is not None
            said[flag.name] = _value(setting, flag)
    from_file = _read(own["config"]) if "config" in own else {}
    named = {BY_SPELLING[name].name for name in said if name in BY_SPELLING}
    kept = {name: value for name, value in from_file.items() if _name_of(name) not in named}
    return Parsed(config_class(**{**kept, **said}), parse_flags(executor), _resources(own))


@dataclass
class _Flag:
    name: str
    values: list[str] = field(default_factory=list)

    def one(self) -> str:
        if len(self.values) != 1:
            got = f"got {len(self.values)}: {' '.join(self.values)}" if self.values else "got none"
            raise UserError(f"--{self.name}: expected one value, {got}")
        if not self.values[0].strip():
            raise UserError(f"--{self.name}: got an empty value; give one, or leave out the flag")
        return self.values[0]


def _flags(argv: Sequence[str], program: str) -> Iterator[_Flag]:
    """Each flag with the values up to the next."""
    current: _Flag | None = None
    for word in argv:
        # A negative number is a value.
        if word.startswith("--") or (word.startswith("-") and not _is_number(word)):
            if current is not None:
                yield current
            name, equals, value = word.lstrip("-").partition("=")
            current = _Flag(_checked(name.replace("-", "_"), word, program), [value] if equals else [])
        elif current is None:
            raise UserError(f"{program}: got {word!r} before any flag; expected --{SETTINGS[0].names[0]} and others")
        else:
            current.values.append(word)
    if current is not None:
        yield current


def _checked(name: str, word: str, program: str) -> str:
    """`name`, if a flag is called that. Raises UserError with the nearest."""
    known = [*BY_SPELLING, *NO_EFFECT, *_OWN, *executor_flags.HELP]
    if name in known or name in REFUSED:
        return name
    near = " or ".join(f"--{each}" for each in nearest(name, known, most=3))
    hint = f"did you mean {near}?" if near else "--help all lists those there are"
    raise UserError(f"{program}: unknown flag {word}: {hint}")


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _value(setting: Setting, flag: _Flag) -> Value:
    """Of the setting's type."""
    if setting.name == "gradient_checkpointing" and flag.values and flag.values[0] in CHECKPOINTERS:
        return flag.one()
    if setting.kind is bool:
        return True if not flag.values else _boolean(flag)
    if setting.kind is list:
        return tuple(flag.values)
    text = flag.one()
    if text.lower() == "none":
        return None
    if setting.kind is int or setting.kind is float:
        return _number(flag, setting)
    if setting.kind is dict:
        return _mapping(flag)
    if setting.kind is object:
        raise UserError(f"--{flag.name}: cannot be given as a flag; use --config, or the class {SFTConfig.__name__}")
    return text


def _boolean(flag: _Flag) -> bool:
    value = BOOLEAN_WORDS.get(flag.one().lower())
    if value is None:
        raise UserError(f"--{flag.name}: expected true or false, or no value, got {flag.one()!r}")
    return value


def _mapping(flag: _Flag) -> dict[str, Value]:
    text = flag.one()
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise UserError(f"--{flag.name}: expected a mapping as JSON, like '{{\"a\": 1}}', got {text!r}")
    return value


def _number(flag: _Flag, setting: Setting) -> int | float:
    text = flag.one()
    if setting.name == "track_memory" and text.lower() in BOOLEAN_WORDS:
        return BOOLEAN_WORDS[text.lower()]
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    whole = setting.kind is int
    if not math.isfinite(number) or (whole and number != int(number)):
        raise UserError(f"--{flag.name}: expected a {'whole ' if whole else ''}number, got {text!r}")
    return int(number) if whole or "." not in text and "e" not in text.lower() else number


def _read(path: str) -> dict[str, Value]:
    import yaml

    file = Path(path).expanduser()
    if not file.is_file():
        raise UserError(f"--config {path!r}: no such file")
    try:
        found = yaml.safe_load(file.read_text())
    except yaml.YAMLError as error:
        raise UserError(f"--config {path!r}: not YAML: {error}") from None
    if not isinstance(found, Mapping):
        raise UserError(
            f"--config {path!r}: got a {type(found).__name__}; expected settings, `name: value` on each line"
        )
    values = {str(name): value for name, value in found.items()}
    for name, value in values.items():
        setting = setting_named(name, path)
        # YAML 1.1 takes 2e-5 for a string.
        if setting is not None and setting.kind in (int, float) and isinstance(value, str) and _is_number(value):
            values[name] = _number(_Flag(name, [value]), setting)
    return values


def _name_of(spelling: str) -> str:
    return BY_SPELLING[spelling].name if spelling in BY_SPELLING else spelling


def _resources(own: Mapping[str, str]) -> Resources | None:
    if "tpu_type" in own and "gpu_count" in own:
        raise UserError("--tpu_type and --gpu_count: expected one of them")
    if "tpu_type" in own:
        return TpuPodConfig(tpu_type=own["tpu_type"])
    if "gpu_count" in own:
        if not own["gpu_count"].isdigit() or int(own["gpu_count"]) < 1:
            raise UserError(f"--gpu_count: expected a whole number from 1, got {own['gpu_count']!r}")
        return GpuConfig(gpu_count=int(own["gpu_count"]))
    return None


def help_text(pairs: bool, dialect: Dialect, program: str, *, everything: bool) -> str:
    """The flags by group, with their defaults: the usual ones, or all."""
    lines = [f"usage: {program} --FLAG VALUE ...", ""]
    for group in Group:
        if group is Group.DPO and not pairs:
            continue
        of_group = [s for s in SETTINGS if s.group is group and s.kind not in (dict, object)]
        shown = [s for s in of_group if everything or s.usual or group is Group.DPO]
        lines += [f"{group.value}:", *(_help_line(s, dialect, pairs) for s in shown), ""]
    lines += ["running:", *(_line(name, "", about) for name, about in _OWN.items())]
    shown_flags = executor_flags.HELP if everything else ("prefix", "dry_run", "force_run")
    lines += [_line(name, "", executor_flags.HELP[name]) for name in shown_flags]
    if program.startswith("marin-sft"):
        lines.append(_line("experiment_out", "FILE", "also write an experiment file that makes the same steps"))
    if not everything:
        lines += ["", f"{program} --help all lists all flags, and their other spellings"]
    else:
        lines += ["", "Other spellings:"]
        lines += [f"  --{s.names[0]}: {', '.join(f'--{n}' for n in s.names[1:])}" for s in SETTINGS if s.names[1:]]
        lines += ["", f"Accepted without effect: {', '.join(sorted(NO_EFFECT))}"]
    return "\n".join(lines)


def _help_line(setting: Setting, dialect: Dialect, pairs: bool) -> str:
    default = setting.default(dialect, pairs)
    told = "" if default is None or setting.kind is bool and not default else f" ({default})"
    return _line(_shown_name(setting, dialect), _PLACEHOLDERS.get(setting.kind, ""), f"{setting.about}{told}")


_EASYDEL_NAMES = {
    "model": "repo_id",
    "data": "dataset_name",
    "seq_len": "max_sequence_length",
    "max_steps": "max_training_steps",
    "output_dir": "save_directory",
    "lr_schedule": "scheduler",
    "max_grad_norm": "clip_grad",
    "optimizer": "optimizer",
    "steps_per_log": "log_steps",
    "steps_per_eval": "evaluation_steps",
}


def _shown_name(setting: Setting, dialect: Dialect) -> str:
    """The spelling that users of the dialect know."""
    if dialect is Dialect.OURS and setting.name in setting.names:
        return setting.name
    if dialect is Dialect.EASYDEL:
        return _EASYDEL_NAMES.get(setting.name, setting.names[0])
    return "dataset_name" if dialect is Dialect.TRL and setting.name == "data" else setting.names[0]


_PLACEHOLDERS: Mapping[type, str] = {int: "N", float: "X", str: "TEXT", list: "TEXT ..."}


def _line(name: str, placeholder: str, about: str) -> str:
    flag = f"  --{name} {placeholder}".rstrip()
    if len(flag) + 2 > _WIDTH:
        return f"{flag}\n{'':{_WIDTH}}{about}"
    return f"{flag:{_WIDTH}}{about}"
