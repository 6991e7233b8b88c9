"""`SFTTrainer` and `DPOTrainer`: the classes of EasyDeL, TRL and training scripts over the steps of this package.

A trainer makes steps of what it is given, runs them with the executor, and copies the model to where its user looks for
it. It holds no weights. The same call again trains nothing and gives the same result; interrupted, it goes on.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from marin_sft.data.files import read_json
from marin_sft.errors import ConfigError, UserError
from marin_sft.execution.executor import Executor, ExecutorFlags, Run
from marin_sft.execution.flags import absolute_prefix
from marin_sft.execution.plan import Action
from marin_sft.execution.resources import Resources
from marin_sft.execution.step import ExecutorStep
from marin_sft.nearest import nearest_text
from marin_sft.paths import file_system, names_in
from marin_sft.steps import perplexity
from marin_sft.trainers.configs import DPOConfig, SFTConfig
from marin_sft.trainers.memory import Kept
from marin_sft.trainers.models import ModelHandle
from marin_sft.trainers.peft import lora_of
from marin_sft.trainers.pipeline import Given, Pipeline, PipelineBuilder
from marin_sft.trainers.publishing import publish, publish_file, published_before, remove_copies, saved_with_state
from marin_sft.trainers.results import Figures, TrainResult
from marin_sft.trainers.settings import Dialect, without_effect

_REFUSED = {
    "data_collator": "batches are packed from tokens; formatting_func or format_type says what a row is",
    "compute_loss_func": "the loss is that of SFT or DPO; losses of preferences are chosen by loss_type",
    "compute_metrics": "evaluation reports the loss; marin_sft.steps.evaluate compares answers",
    "callbacks": "training runs in another process; metrics.jsonl and trackers have its figures",
    "optimizers": "optim and lr_scheduler_type choose them",
    "preprocess_logits_for_metrics": "logits are never kept",
    "model_init": "the model is loaded once, from what model names",
}
_KNOWN = (
    "arguments args model train_dataset eval_dataset processing_class tokenizer formatting_func peft_config "
    "reference_model ref_model resources flags"
).split()


class SFTTrainer:
    """Supervised fine-tuning.

    Three ways to call it, each with the defaults of the library that it comes from:

        SFTTrainer(arguments=SFTConfig(...), model=..., processing_class=..., train_dataset=...)    EasyDeL's
        SFTTrainer("org/model", args=SFTConfig(...), train_dataset=..., peft_config=...)            TRL's
        SFTTrainer(SFTConfig(model_name_or_path=..., data_path=...))                                a script's

    train_dataset, eval_dataset: a `datasets.Dataset` or any sequence of dictionaries, which are known by their content;
    or a path, a glob or a hub id. eval_dataset may be a dictionary of them by name.
    processing_class: a tokenizer, or the hub id or directory of one; None: the model's.
    formatting_func: makes a text of a row, or texts of a batch of rows, which are trained whole.
    resources: what training runs on; None: what the surrounding `execute` was given, or all GPUs of this machine.
    flags: of the executor; None: those of the environment (`MARIN_SFT_PREFIX`).
    dialect: whose defaults hold; None: as the way of calling says.

    Raises:
        ConfigError: for what cannot be trained. Nothing has run by then.
    """

    config_class: ClassVar[type[SFTConfig]] = SFTConfig

    def __init__(
        self,
        config: Any = None,
        *,
        arguments: SFTConfig | None = None,
        args: SFTConfig | None = None,
        model: ModelHandle | str | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        tokenizer: Any = None,
        formatting_func: Callable[..., Any] | None = None,
        peft_config: Any = None,
        reference_model: ModelHandle | str | None = None,
        ref_model: ModelHandle | str | None = None,
        resources: Resources | None = None,
        flags: ExecutorFlags | None = None,
        dialect: Dialect | None = None,
        **others: object,
    ) -> None:
        self._refuse(others)
        if isinstance(config, SFTConfig):
            self._require_none(arguments=arguments, args=args)
        elif config is not None:
            self._require_none(model=model)
            config, model = None, config
        given_model = model
        if dialect is None:
            dialect = Dialect.EASYDEL if arguments is not None else Dialect.TRL if config is None else Dialect.SCRIPT
        settings = self._one(arguments=arguments, args=args, config=config) or self.config_class()
        if not isinstance(settings, self.config_class) or settings.pairs != self.config_class.pairs:
            raise ConfigError(
                f"{type(self).__name__}: got settings of type {type(settings).__name__}; expected "
                f"marin_sft.{self.config_class.__name__}"
            )
        self.config, self.dialect = settings, dialect
        values = settings.values(dialect)
        said = {name: value for name, (_, value) in settings.given().items()}
        source = self._one(model=given_model, model_name_or_path=said.get("model"))
        source = values["model"] if source is None else source
        data = self._one(train_dataset=train_dataset, data_path=values["data"] or None)
        if source is None:
            raise ConfigError(f"{type(self).__name__}: got no model; expected model=, a hub id or a directory")
        if data is None:
            raise ConfigError(f"{type(self).__name__}: got no data; expected train_dataset= or data_path=")
        reference = self._one(
            reference_model=reference_model, ref_model=ref_model, reference_model_repo_id=said.get("reference")
        )
        self._given = Given(
            model=_handle(source),
            train_data=data,
            eval_data=_named(self._one(eval_dataset=eval_dataset, eval_data_path=values["eval_data"])),
            tokenizer=self._one(
                processing_class=processing_class, tokenizer=tokenizer, processor_repo_id=said.get("tokenizer")
            ),
            formatting_func=formatting_func,
            reference=None if reference is None else _handle(reference),
            lora=None if peft_config is None else lora_of(peft_config),
            resources=resources,
        )
        self._flags, self._takes_flags = flags or ExecutorFlags(), flags is not None
        self._trained: TrainResult | None = None
        self._built: Pipeline | None = None

    @property
    def steps(self) -> list[ExecutorStep[Any]]:
        """The steps that `train` runs."""
        pipeline = self._pipeline()
        return [pipeline.trained, pipeline.exported]

    def save_model(self, output_dir: str | None = None) -> None:
        """Copy the trained model to `output_dir`, too.

        Raises:
            ConfigError: `train` has not been called.
        """
        if self._trained is None:
            raise ConfigError("save_model: there is no model before train(), which also copies it to output_dir")
        if output_dir is not None:
            publish(self._trained.checkpoint_path, absolute_prefix(output_dir))

    @property
    def state(self) -> None:
        raise AttributeError(f"{type(self).__name__}.state: train() returns history, global_step and metrics")

    @property
    def model(self) -> None:
        raise AttributeError(
            f"{type(self).__name__}.model: weights are not in this process; train().output_dir holds what was trained, "
            "for transformers to load"
        )

    def train(self, resume_from_checkpoint: str | bool | None = None) -> TrainResult | None:
        """Run what has to run, and copy the model to the output directory; None if the flags say not to train.

        resume_from_checkpoint: as the setting of that name. True: the same call goes on by itself where it stopped.

        Raises:
            ConfigError: for what cannot be trained.
            RunFailed: a step failed. The same call goes on from what it saved; models with their states have been
                copied.
        """
        if isinstance(resume_from_checkpoint, str):
            self.config.resume_from_checkpoint = resume_from_checkpoint
            self._built = None
        pipeline = self._pipeline()
        for note in pipeline.notes:
            print(note, file=sys.stderr)
        run = self._run([pipeline.trained, pipeline.exported], f"{type(self).__name__} {pipeline.name}")
        if self._flags.dry_run or self._flags.json:
            return None
        self._trained = self._result(pipeline, run)
        return self._trained

    def evaluate(self) -> Figures:
        """Loss and perplexity on the evaluation data: of the trained model, or before training, of its base model.

        Raises:
            ConfigError: no evaluation data, or pairs, which are evaluated while training only.
        """
        pipeline = self._pipeline()
        if self.config.pairs:
            raise ConfigError("evaluate: preference training evaluates while it trains; train() returns its metrics")
        if not pipeline.held_out:
            raise ConfigError("evaluate: got no evaluation data; expected eval_dataset= or eval_data_path=")
        model = pipeline.base if self._trained is None else pipeline.exported
        name = f"{pipeline.name}-{'base' if self._trained is None else 'trained'}"
        step = perplexity(
            name, model, pipeline.held_out, seq_len=pipeline.seq_len, resources=pipeline.trained.resources
        )
        run = self._run([step], f"evaluation of {name}")
        figures = read_json(f"{run.output_path(step)}/metrics.json")
        return {f"eval_{key.replace('/', '_')}": value for key, value in figures.items()}

    def _refuse(self, others: Mapping[str, object]) -> None:
        for name, value in others.items():
            if name in _REFUSED and value is not None:
                raise ConfigError(f"{type(self).__name__}: {name} is not supported: {_REFUSED[name]}")
            if name not in _REFUSED:
                raise ConfigError(f"{type(self).__name__}: unknown argument {name!r}{nearest_text(name, _KNOWN)}")

    def _one(self, **arguments: Any) -> Any:
        """The one that was given, or None.

        Raises:
            ConfigError: several.
        """
        given = {name: value for name, value in arguments.items() if value is not None}
        if len(given) > 1 and len({id(value) for value in given.values()}) > 1:
            raise ConfigError(f"{type(self).__name__}: {' and '.join(given)} are both given; expected one of them")
        return next(iter(given.values()), None)

    def _require_none(self, **arguments: object) -> None:
        for name, value in arguments.items():
            if value is not None:
                raise ConfigError(f"{type(self).__name__}: {name} is given twice, once by position; expected it once")

    def _pipeline(self) -> Pipeline:
        if self._built is None:
            self._built = PipelineBuilder(self.config, self.dialect, self._given, self._flags.prefix).build()
            idle = without_effect([*self.config.said, *self._given.model.ignored])
            if idle is not None:
                print(idle, file=sys.stderr)
        return self._built

    def _run(self, steps: list[ExecutorStep[Any]], description: str) -> Run:
        executor, pipeline = Executor(self._flags, takes_flags=self._takes_flags), self._pipeline()
        if self._flags.dry_run or self._flags.json:
            return executor.run(steps, description)
        written = self._needed(executor, steps) if pipeline.in_memory else []
        try:
            for kept in written:
                kept.write(self._flags.prefix)
            return executor.run(steps, description)
        except BaseException:
            with contextlib.suppress(OSError, UserError):  # what went wrong first is what counts
                self._copy_saved(executor.plan(steps))
            raise
        finally:
            for kept in written:
                kept.remove(self._flags.prefix)

    def _needed(self, executor: Executor, steps: list[ExecutorStep[Any]]) -> list[Kept]:
        """What of the rows and tokenizers in memory a step is going to read."""
        planned = executor.plan(steps).plan
        runs = {item.node.step.name for item in planned if item.action in (Action.RUN, Action.IF_CHANGED)}
        return [kept for kept in self._pipeline().in_memory if kept.step.name in runs]

    def _copy_saved(self, planned: Run) -> None:
        """To the output directory: the models that an unfinished training saved with their states."""
        target, saved = self._target()
        for item in planned.plan:
            if item.node.step is self._pipeline().trained:
                directory = planned.plan.store.path(item.node.directory)
                for attempt in sorted((name for name in names_in(directory) if name.isdigit()), key=int):
                    for step in saved_with_state(f"{directory}/{attempt}"):
                        publish(f"{directory}/{attempt}/hf/step-{step}", f"{target}/{saved}{step}")

    def _result(self, pipeline: Pipeline, run: Run) -> TrainResult | None:
        output, exported = run.output_path(pipeline.trained), run.output_path(pipeline.exported)
        if output is None or exported is None:  # other steps were chosen by flags
            return None
        history = [_renamed(json.loads(line)) for line in _read(f"{output}/metrics.jsonl").splitlines()]
        summary = read_json(f"{output}/metrics.json")
        losses = [line["loss"] for line in history]
        metrics = {**history[-1], **summary, "train_loss": sum(losses) / len(losses)}
        return TrainResult(
            history=history,
            metrics=metrics,
            output_dir=self._copy(output, exported, metrics),
            checkpoint_path=exported,
            global_step=int(history[-1]["step"]),
            training_loss=metrics["train_loss"],
        )

    def _target(self) -> tuple[str, str]:
        """The output directory, and what directories of models saved in it are called before their step."""
        values = self.config.values(self.dialect)
        target = absolute_prefix(str(values["output_dir"]))
        if self.dialect is Dialect.EASYDEL:
            return f"{target}/{values['run'] or type(self).__name__}", "run-"
        if self.dialect is Dialect.OURS and "output_dir" not in self.config.given():
            target = f"{target}/{self._pipeline().name}"
        return target, "checkpoint-"

    def _copy(self, output: str, exported: str, metrics: Figures) -> str | None:
        """To the output directory: the model, those saved while training, and the log."""
        values, (target, saved) = self.config.values(self.dialect), self._target()
        steps = [name.removeprefix("step-") for name in names_in(f"{output}/hf") if name.startswith("step-")]
        for step in steps:
            publish(f"{output}/hf/step-{step}", f"{target}/{saved}{step}")
        remove_copies(target, saved, keep={f"{saved}{step}" for step in steps})
        adapted = "adapter" in names_in(output)
        remove_copies(target, "adapter", keep={"adapter"} if adapted else set())
        if values["last_save"]:
            replaced = published_before(target, exported)
            if replaced is not None:
                print(f"{target}: replaces the model of {replaced}, which stays in the store", file=sys.stderr)
            publish(exported, target)
            if adapted:
                publish(f"{output}/adapter", f"{target}/adapter")
        if not values["last_save"] and not steps:
            return None
        publish_file(f"{output}/metrics.jsonl", f"{target}/metrics.jsonl")
        filesystem, plain = file_system(f"{target}/train_results.json")
        filesystem.pipe_file(plain, json.dumps(metrics, indent=1).encode())
        return target


class DPOTrainer(SFTTrainer):
    """Direct preference optimisation. As `SFTTrainer`, and:

    reference_model (TRL: ref_model): the model to compare with; None: the one that training begins with.
    """

    config_class = DPOConfig


def _handle(source: Any) -> ModelHandle:
    if isinstance(source, ModelHandle):
        return source
    if not isinstance(source, str | os.PathLike):
        raise ConfigError(
            f"model: got a {type(source).__name__}; expected the hub id or directory of a model. One that is loaded in "
            "this process is saved with save_pretrained first"
        )
    return ModelHandle(os.fspath(source))


def _named(data: Any) -> dict[str, Any]:
    """Evaluation data by name."""
    if data is None:
        return {}
    # A DatasetDict and a dictionary hold datasets; a row would hold plain values.
    return dict(data) if isinstance(data, Mapping) else {"validation": data}


def _renamed(line: Figures) -> Figures:
    """A line of the log, with the learning rate under the name that trainers give it."""
    return {("learning_rate" if name == "lr" else name): value for name, value in line.items()}


def _read(path: str) -> str:
    filesystem, plain = file_system(path)
    text: str = filesystem.cat_file(plain).decode()
    return text
