"""The config.json of a model that may not be there yet. Of a download, only that file is fetched."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from marin_sft.data.remote.hub import HubFile, Repository, endpoint
from marin_sft.data.remote.transfer import patiently
from marin_sft.data.step_configs import DownloadConfig, TrainTokenizerConfig
from marin_sft.errors import DataError, UserError
from marin_sft.execution.executor import Run
from marin_sft.execution.step import AnyStep, ExecutorStep, InputName
from marin_sft.export.hf_config import ExportConfig
from marin_sft.training.models.model_config import Fields, with_older_fields
from marin_sft.training.models.model_directory import ModelDirectory
from marin_sft.training.models.new_tokens_config import AddTokensConfig
from marin_sft.training.models.random_model_config import RandomModelConfig
from marin_sft.training.models.vocabulary import tokenizer_size
from marin_sft.training.train_config import TrainConfig


@dataclass(frozen=True)
class ModelShapes:
    """The models that the steps of a plan use. again: the command that runs a step, with {} for its name."""

    run: Run
    again: str

    def shape_of(self, source: object) -> Fields:
        """The fields of the model's config.json: see `ModelDirectory.config`.

        Raises:
            UserError: it depends on a step that has to run first.
        """
        path, step = self._found(source)
        if path is not None:
            return ModelDirectory(path).config
        assert step is not None
        config = step.config
        if isinstance(config, DownloadConfig):
            return _downloaded(config)
        if isinstance(config, RandomModelConfig):
            return config.model.hf_config(self._vocabulary(config.tokenizer))
        if isinstance(config, TrainConfig | ExportConfig):
            return self.shape_of(config.base_model)
        if isinstance(config, AddTokensConfig):  # a few rows more, which do not matter here
            return self.shape_of(config.model)
        raise self._unknown(step, "the shape of its model")

    def _vocabulary(self, source: object) -> int:
        path, step = self._found(source)
        found = tokenizer_size(path) if path is not None else None
        if step is not None and path is None:
            config = step.config
            if isinstance(config, TrainTokenizerConfig):
                return config.vocab_size
            if isinstance(config, DownloadConfig):
                try:
                    found = _downloaded(config).get("vocab_size")
                except DataError as error:
                    raise self._unknown(step, f"the size of its tokenizer ({error})") from error
        if found is None:
            raise UserError(f"{source}: no tokenizer.json whose size could be told; expected one")
        return found

    def _found(self, source: object) -> tuple[str | None, AnyStep | None]:
        """The path, or else the step that will make it."""
        if isinstance(source, ExecutorStep):
            source = InputName(source, None)
        if not isinstance(source, InputName):
            return str(source), None
        if source.step is None:
            return self.run.plan.store.path(source.name or ""), None
        return self.run.output_path(source.step, source.name), source.step

    def _unknown(self, step: AnyStep, what: str) -> UserError:
        command = self.again.format(f"^{step.name}$")
        return UserError(f"{step.name} has no output yet, and its config does not tell {what}; run it: {command}")


def _downloaded(config: DownloadConfig) -> Fields:
    repository = Repository(config.id, config.kind, config.revision, endpoint())
    file = HubFile(repository, "config.json")
    content = patiently(lambda: b"".join(file.read_from(0, None)))
    try:
        fields = json.loads(content)
    except ValueError as error:
        raise DataError(f"{file}: expected JSON: {error}") from error
    return with_older_fields(fields, str(Path(repository.page, "config.json")))
