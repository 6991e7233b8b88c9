"""What a server makes of an export, compared with ours: differences by kind, each with the first one in words."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from marin_sft.data.files import Json
from marin_sft.evaluation.served.files import Files

_SHOWN = 60  # characters on either side of a difference


@dataclass(frozen=True)
class Answered:
    """One question: ours and the server's. Texts are decoded by our tokenizer, and finishes are "stop" or "length".

    gap: of the first token that differs, how much more log-probability ours has, by our model. None: none differs.
    logprob_difference: the largest one of a token of the server's answer, between the server and us.
    """

    set: str
    prompt: str
    server_prompt: str | None
    prompt_ids: Sequence[int]
    server_prompt_ids: Sequence[int]
    ids: Sequence[int]
    server_ids: Sequence[int]
    text: str
    server_text: str
    finish: str
    server_finish: str
    gap: float | None = None
    logprob_difference: float = 0.0

    @property
    def first(self) -> int | None:
        """The place of the first token of the answer that differs."""
        return first_difference(self.ids, self.server_ids)

    def equals(self, tie_gap: float) -> bool:
        """Whether the answers are equal, or rounding decided between two tokens."""
        return self.first is None or self.is_tie(tie_gap)

    def is_tie(self, tie_gap: float) -> bool:
        return self.gap is not None and self.gap <= tie_gap

    def row(self, tie_gap: float) -> Json:
        """For answers.jsonl."""
        same = {"prompt": self.prompts_equal, "prompt_ids": self.prompt_ids_equal}
        shown: Json = {"set": self.set, "prompt": self.prompt, "ours": self.text, "server": self.server_text}
        shown |= {"finish": {"ours": self.finish, "server": self.server_finish}, "first_difference": self.first}
        shown |= {"equal": self.first is None, "near_tie": self.is_tie(tie_gap)}
        shown |= {"gap": self.gap, "logprob_difference": self.logprob_difference, "same": same}
        shown |= {"ids": {"ours": list(self.ids), "server": list(self.server_ids)}}
        if not same["prompt"]:
            shown["server_prompt"] = self.server_prompt
        if not same["prompt_ids"]:
            shown["prompt_ids"] = {"ours": list(self.prompt_ids), "server": list(self.server_prompt_ids)}
        return shown

    @property
    def prompts_equal(self) -> bool:
        """As text, if the server says what it made of the chat."""
        return self.server_prompt in (None, self.prompt)

    @property
    def prompt_ids_equal(self) -> bool:
        return list(self.prompt_ids) == list(self.server_prompt_ids)


@dataclass(frozen=True)
class Check:
    """One kind of thing that is compared. count: what is shown of it. difference: the first in words; None: none."""

    name: str
    count: str
    difference: str | None


@dataclass(frozen=True)
class Served:
    """Everything that was compared.

    templates: the template by where it is read, the first one ours. files: see `Files`. is_trained_with: whether ours
    is known from training; else it is what the files say. added: ids of all added tokens as text, ours and
    the server's. ends: the ids that end an answer, those that should and those that the files name. lengths: of the
    context, ours and the server's. token: its text, for people.
    """

    templates: Mapping[str, str | None]
    files: Files
    is_trained_with: bool
    added: tuple[Sequence[int], Sequence[int]]
    ends: tuple[Sequence[int], Sequence[int]]
    lengths: tuple[int, int]
    answers: Sequence[Answered]
    tie_gap: float
    logprob_tolerance: float
    token: Callable[[int], str] = field(repr=False)

    def checks(self) -> list[Check]:
        """In the order in which one thing causes another."""
        return [
            Check("template", f"{len(self.templates)} texts", self._template()),
            Check("end tokens", " ".join(map(self.token, self.ends[0])), self._ends()),
            Check("added tokens", f"{len(self.added[0])}", self._added()),
            Check("context length", f"{self.lengths[1]}", self._length()),
            self._each("prompts as text", lambda a: a.prompts_equal, self._prompt_text),
            self._each("prompts as ids", lambda a: a.prompt_ids_equal, self._prompt_ids),
            self._each("log-probabilities", lambda a: a.logprob_difference <= self.logprob_tolerance, self._logprobs),
            self._each("answers", lambda a: a.equals(self.tie_gap), self._answer),
            self._each("ends of answers", self._ends_alike, self._finish),
        ]

    def metrics(self) -> dict[str, float]:
        answers = self.answers
        found = {
            "prompts": len(answers),
            "answers_equal": sum(answer.first is None for answer in answers),
            "near_ties": sum(answer.is_tie(self.tie_gap) for answer in answers),
            "stopped": sum(answer.server_finish == "stop" for answer in answers),
            "stopped_ours": sum(answer.finish == "stop" for answer in answers),
            "prompt_texts_equal": sum(answer.prompts_equal for answer in answers),
            "prompt_ids_equal": sum(answer.prompt_ids_equal for answer in answers),
            "context_length": self.lengths[1],
            "context_length_ours": self.lengths[0],
            "logprob_difference": max((answer.logprob_difference for answer in answers), default=0.0),
        }
        differ = {
            re.sub("[ -]", "_", check.name) + "_differ": int(check.difference is not None) for check in self.checks()
        }
        return {**found, **differ}

    def _each(self, name: str, good: Callable[[Answered], bool], told: Callable[[int, Answered], str]) -> Check:
        bad = [(i, answer) for i, answer in enumerate(self.answers) if not good(answer)]
        first = f"prompt {bad[0][0] + 1} of set {bad[0][1].set!r}: {told(*bad[0])}" if bad else None
        return Check(name, f"{len(self.answers) - len(bad)} of {len(self.answers)}", first)

    def _template(self) -> str | None:
        if not self.is_trained_with and (found := self._templates_of_files()):
            return found
        (of_ours, ours), *others = self.templates.items()
        for place, text in others:
            if text != ours:
                said = "has none" if text is None else apart(str(ours), text)
                return f"the template {place} is not that {of_ours}: {said}"
        return None

    def _templates_of_files(self) -> str | None:
        (first, text), *others = self.files.templates.items() or [("", "")]
        other = next((there for _, there in others if there != text), None)
        if other is None:
            return None
        at, parts = _apart(text, other)
        names, odd = list(self.files.templates), self.files.odd_template
        if odd:
            told = f"{odd} has another template than {' and '.join(name for name in names if name != odd)}"
        else:
            told = f"{' and '.join(names)} have different templates, and cannot say which is that of training"
        return (
            f"{told}: from character {at} on, {parts[0]!r} and {parts[1]!r}; transformers and vLLM take that of "
            f"{first}; compare with --tokenizer DIR, that of training"
        )

    def _ends(self) -> str | None:
        missing = [end for end in self.ends[0] if end not in self.ends[1]]
        if not missing:
            return None
        named = [f"{self.token(end)!r} (id {end})" for end in self.ends[1]] or ["nothing"]
        return (
            f"{self.token(missing[0])!r} (id {missing[0]}) ends an answer in training, and generation_config.json "
            f"names {', '.join(named)}: add it to eos_token_id there, or export again"
        )

    def _added(self) -> str | None:
        return None if first_difference(*self.added) is None else f"as one text, {self._tokens(*self.added)}"

    def _length(self) -> str | None:
        ours, theirs = self.lengths
        if ours == theirs:
            return self.files.length_difference()
        why = self.files.why_other(ours, theirs)
        return f"the model takes {ours} tokens, the server {theirs}{why and '; '}{why}"

    def _prompt_text(self, _: int, answer: Answered) -> str:
        return apart(answer.prompt, answer.server_prompt or "")

    def _prompt_ids(self, _: int, answer: Answered) -> str:
        return self._tokens(answer.prompt_ids, answer.server_prompt_ids)

    def _logprobs(self, _: int, answer: Answered) -> str:
        return f"that of a token is {answer.logprob_difference:.2g} from ours: the server computes something else"

    def _answer(self, _: int, answer: Answered) -> str:
        gap = "" if answer.gap is None else f"; ours has {answer.gap:.2g} more log-probability there"
        return f"{self._tokens(answer.ids, answer.server_ids)}{gap}; ours {answer.text!r}, there {answer.server_text!r}"

    def _ends_alike(self, answer: Answered) -> bool:
        """One that stops where ours does not, or goes on where ours stops. Other answers may end otherwise."""
        at = answer.first
        other = at is not None and at < min(len(answer.ids), len(answer.server_ids))
        return other or answer.finish == answer.server_finish

    def _finish(self, _: int, answer: Answered) -> str:
        return f"ours ends with {answer.finish!r}, the server's with {answer.server_finish!r}: {answer.server_text!r}"

    def _tokens(self, ours: Sequence[int], theirs: Sequence[int]) -> str:
        at = first_difference(ours, theirs)
        assert at is not None
        return f"token {at + 1} is {self._named(ours, at)}, and {self._named(theirs, at)} in the server"

    def _named(self, ids: Sequence[int], at: int) -> str:
        return f"{self.token(ids[at])!r} (id {ids[at]})" if at < len(ids) else "missing"


def first_difference(ours: Sequence[int], theirs: Sequence[int]) -> int | None:
    """The first place at which they differ; the end of the shorter one counts. None: they are equal."""
    differ = (i for i, (one, other) in enumerate(zip(ours, theirs, strict=False)) if one != other)
    return next(differ, None if len(ours) == len(theirs) else min(len(ours), len(theirs)))


def apart(ours: str, theirs: str) -> str:
    """Where two texts part."""
    if ours == theirs:
        return "they are equal"
    at, (one, other) = _apart(ours, theirs)
    return f"from character {at} on, ours is {one!r}, and there {other!r}"


def _apart(one: str, other: str) -> tuple[int, tuple[str, str]]:
    """The number of the first character that differs, and both texts near it."""
    at = first_difference(*([ord(letter) for letter in text] for text in (one, other)))
    assert at is not None
    near = slice(max(at - _SHOWN // 2, 0), at + _SHOWN)
    return at + 1, (one[near], other[near])


def table(served: Served) -> Iterator[str]:
    """Lines for people: each check, and what differs."""
    for check in served.checks():
        yield f"{check.name:<17} {check.count:<14} {'differs: ' + check.difference if check.difference else 'equal'}"
    found = served.metrics()
    yield (
        f"{found['answers_equal']:g} of {found['prompts']:g} answers equal token by token, {found['near_ties']:g} more "
        f"up to a near tie; {found['stopped']:g} stopped by themselves (ours: {found['stopped_ours']:g}); "
        f"log-probabilities differ by at most {found['logprob_difference']:.1g}"
    )
