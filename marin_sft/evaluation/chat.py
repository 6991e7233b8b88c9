"""A dialogue with a model, in this process."""

from __future__ import annotations

from collections.abc import Generator, Iterator

from marin_sft.data.messages.examples import BadRow, Dialogue, Message
from marin_sft.errors import DataError
from marin_sft.evaluation.answerer import Answerer
from marin_sft.evaluation.decoding import has_ended
from marin_sft.evaluation.sampling import Sampling
from marin_sft.evaluation.text_stream import TextStream, ThoughtStream, tags_of


class Chat:
    """What has been said so far.

    messages: with the system message, if there is one.
    asked, answered: the ids of the last prompt and of the answer to it.
    thought, thought_tokens: of the last answer; "" and 0: it did not think.
    """

    def __init__(self, answerer: Answerer, max_new_tokens: int, sampling: Sampling) -> None:
        self.answerer = answerer
        self._new_tokens, self._sampling, self._number = max_new_tokens, sampling, 0
        self._tags = tags_of(str(answerer.tokenizer.chat_template))
        self.system: str | None = None
        self.messages: list[Message] = []
        self.asked: list[int] = []
        self.answered: list[int] = []
        self.thought, self.thought_tokens = "", 0

    def set_system(self, text: str | None) -> None:
        """From the next answer on. Raises DataError if the chat template has no place for it."""
        begin: list[Message] = [] if text is None else [{"role": "system", "content": text}]
        if text is not None:
            try:
                shown = self.answerer.renderer.prompt(Dialogue([*begin, {"role": "user", "content": "a question"}]))
            except BadRow as error:
                raise DataError(f"the chat template takes no system message ({error.message})") from error
            if text.strip() not in shown:
                raise DataError("the chat template leaves out the system message")
        self.system = text
        self.messages = begin + [message for message in self.messages if message["role"] != "system"]

    def reset(self) -> None:
        """Start a new dialogue, with the same system message."""
        self.messages = [message for message in self.messages if message["role"] == "system"]
        self.asked, self.answered = [], []
        self.thought, self.thought_tokens = "", 0

    def say(self, text: str) -> Generator[tuple[bool, str], None, None]:
        """The pieces of the answer to `text`, each with whether it is a thought. What has come is remembered, even if
        the rest is not waited for.

        Raises:
            DataError: the template refuses the dialogue, or it has become longer than the model takes.
        """
        said = [*self.messages, {"role": "user", "content": text}]
        try:
            prompt = self.answerer.prompt(Dialogue(said))
        except BadRow as error:
            raise DataError(f"the dialogue cannot be a prompt: {error.message}") from error
        if len(prompt) >= self.answerer.longest:
            begun = any(message["role"] == "assistant" for message in self.messages)
            what, do = ("dialogue", "start a new one with /reset") if begun else ("message", "expected a shorter one")
            raise DataError(f"the {what} has {len(prompt)} tokens, and the model takes {self.answerer.longest}: {do}")
        self.asked, self.answered = prompt, []
        self.thought, self.thought_tokens = "", 0
        try:
            yield from self._pieces()
        finally:
            self._number += 1
            if self.answered:
                answer = self.answerer.text(self.answered)
                self.messages = [*said, {"role": "assistant", "content": answer}]

    def _pieces(self) -> Iterator[tuple[bool, str]]:
        answerer = self.answerer
        opened = answerer.tokenizer.decode(self.asked[-8:]).rstrip().endswith(self._tags[0])
        texts, thoughts = TextStream(answerer.tokenizer), ThoughtStream(self._tags, opened)
        for token in answerer.stream(self.asked, self._new_tokens, self._sampling, self._number):
            self.answered.append(token)
            if token in answerer.ends:
                break
            self.thought_tokens += thoughts.inside
            yield from self._noted(thoughts.add(texts.add(token)))
        yield from self._noted(thoughts.add(texts.rest()))
        yield from self._noted(thoughts.rest())

    def _noted(self, pieces: Iterator[tuple[bool, str]]) -> Iterator[tuple[bool, str]]:
        for is_thought, piece in pieces:
            self.thought += piece if is_thought else ""
            yield is_thought, piece

    @property
    def unfinished(self) -> str | None:
        """Why the last answer, whose tokens have all come, ends in the middle. None: it does not."""
        if not self.answered or has_ended(self.answered, self.answerer.ends):
            return None
        if len(self.asked) + len(self.answered) >= self.answerer.longest:
            return f"cut: the model takes {self.answerer.longest} tokens; /reset starts a new dialogue"
        return f"cut after {len(self.answered)} tokens, the --max_new_tokens"
