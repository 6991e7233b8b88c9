"""A dialogue with an exported model, in this process."""

from __future__ import annotations

from marin_sft.data.chat.renderer import ChatRenderer
from marin_sft.data.formats import ChatLmDatasetFormat
from marin_sft.data.messages.examples import Dialogue, Message
from marin_sft.errors import DataError
from marin_sft.evaluation.decoding import decode
from marin_sft.evaluation.generate import end_ids
from marin_sft.evaluation.sampling import Sampling
from marin_sft.training.compilation_cache import use_compilation_cache
from marin_sft.training.models import levanter_model
from marin_sft.training.models.model_directory import ModelDirectory

_SHORTEST_ROOM = 256  # prompts are padded to powers of two from here on, so that few lengths are compiled


class Chat:
    """A model and what has been said so far.

    path: a Hugging Face directory with a tokenizer, a chat template, and ids that end an answer.
    system: a system message; None: the template's own.

    Raises:
        ConfigError, TrainingError: no such directory, or one that lacks any of these.
    """

    def __init__(self, path: str, system: str | None, max_new_tokens: int, sampling: Sampling) -> None:
        use_compilation_cache()
        directory = ModelDirectory(path)
        self._renderer = ChatRenderer(directory.tokenizer(), ChatLmDatasetFormat(shape="messages"))
        self._model = levanter_model.load_model(directory)
        self._ends = end_ids(directory)
        self._new_tokens, self._sampling = max_new_tokens, sampling
        self._begin: list[Message] = [] if system is None else [{"role": "system", "content": system}]
        self.messages: list[Message] = list(self._begin)

    def answer(self, text: str) -> str:
        """What the assistant says to `text`. Both are remembered.

        Raises:
            DataError: the dialogue has become longer than the model takes.
        """
        said = [*self.messages, {"role": "user", "content": text}]
        tokenizer = self._renderer.tokenizer
        prompt = tokenizer(self._renderer.prompt(Dialogue(said)), add_special_tokens=False)["input_ids"]
        longest = self._model.max_length
        if len(prompt) >= longest:
            raise DataError(f"the dialogue has {len(prompt)} tokens, and the model takes {longest}: start a new one")
        room = min(max(_SHORTEST_ROOM, 2 ** (len(prompt) - 1).bit_length()), longest)
        (tokens,) = decode(self._model, [prompt], self._ends, self._new_tokens, room, self._sampling)
        ended = bool(tokens) and tokens[-1] in self._ends
        answer: str = tokenizer.decode(tokens[:-1] if ended else tokens)
        self.messages = [*said, {"role": "assistant", "content": answer}]
        return answer

    def forget(self) -> None:
        """Start a new dialogue."""
        self.messages = list(self._begin)
