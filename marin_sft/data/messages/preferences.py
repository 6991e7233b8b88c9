"""Readers of rows that hold a better and a worse answer."""

from __future__ import annotations

import os.path
import re

from marin_sft.data.messages.dialogues import Fields, earlier_turns, question_turns, template_kwargs_of
from marin_sft.data.messages.examples import BadRow, Example, Message, Preference, TextPreference
from marin_sft.data.messages.tool_calls import kind_of, text_of, tools_of
from marin_sft.data.messages.turns import MessageFormat, same_turn, turns_of, with_system

_MARKER = re.compile(r"\n\n(Human|Assistant):")
Parts = tuple[list[Message], list[Message], list[Message]]
"""A prompt and its two continuations, chosen and rejected."""
_SPEAKERS = {"Human": "user", "Assistant": "assistant"}


def read_preference(fields: Fields, format: MessageFormat) -> Preference | TextPreference:
    """The pair under `chosen` and `rejected`: strings, single messages, or lists of messages.

    Lists that begin with the user or the system are whole dialogues: their prompt is what they have in common, which a
    `prompt` string or `messages` may repeat. Other lists continue `messages`, `prompt` or `instruction`. Strings are
    plain text if the prompt is a text under `prompt` or if there is none, unless they are written with "\\n\\nHuman:"
    and "\\n\\nAssistant:" (hh-rlhf), or the row has a system prompt or tools.
    """
    chosen, rejected = fields["chosen"], fields["rejected"]
    if kind_of(chosen) != kind_of(rejected):
        raise BadRow(
            "bad_pair", f"chosen is {kind_of(chosen)}, rejected is {kind_of(rejected)}; expected the same kind"
        )
    if isinstance(chosen, str) and _is_plain(fields) and not _by_markers(chosen):
        return _text_pair(fields.get("prompt"), text_of(chosen, "chosen"), text_of(rejected, "rejected"))
    better, worse = (
        _side(_answer(value, fields), name, format) for name, value in (("chosen", chosen), ("rejected", rejected))
    )
    whole = better[0]["role"] != "assistant"
    if whole != (worse[0]["role"] != "assistant"):
        raise BadRow("bad_pair", "one of chosen and rejected begins with the assistant, the other does not")
    if whole:
        parts = _split_dialogues(fields, better, worse, format)
        _require_said_again(parts, fields, format)
        return _pair(parts, fields, format)
    return _pair((_prompt(fields, format), better, worse), fields, format)


def _side(value: object, where: str, format: MessageFormat) -> list[Message]:
    return isinstance(value, str) and _by_markers(value) or turns_of(value, format, where, "assistant")


def _answer(value: object, fields: Fields) -> object:
    """An answer without the space that belongs to the "Assistant:" at the end of its prompt."""
    prompt = fields.get("prompt")
    if isinstance(value, str) and isinstance(prompt, str) and _by_markers(prompt):
        return value.removeprefix(" ")
    return value


def read_ranked(fields: Fields, format: MessageFormat) -> list[Example]:
    """As in Nectar: the best answer against each worse one, in the order of the row."""
    answers = fields["answers"]
    if not isinstance(answers, list) or not answers:
        raise BadRow("bad_pair", f"answers is {kind_of(answers)}, expected a list of {{answer, rank}}")
    for index, one in enumerate(answers):
        if not isinstance(one, dict) or kind_of(one.get("rank")) != "a number" or one["rank"] != one["rank"]:
            raise BadRow("bad_pair", f"answers[{index}]: expected an object with an answer and a number as its rank")
    best = min(answers, key=lambda one: one["rank"])
    worse = [one for one in answers if one["rank"] > best["rank"]]
    if not worse:
        raise BadRow("identical_pair", f"all {len(answers)} answers have the same rank; expected a better and a worse")
    pairs = [{**fields, "chosen": best.get("answer"), "rejected": one.get("answer")} for one in worse]
    return [read_preference(pair, format) for pair in pairs]


def _pair(parts: Parts, fields: Fields, format: MessageFormat) -> Preference:
    prompt, chosen, rejected = parts
    if chosen == rejected:
        raise BadRow("identical_pair", "chosen and rejected are the same")
    for name, side in (("chosen", chosen), ("rejected", rejected)):
        if not any(turn["role"] == "assistant" for turn in side):
            raise BadRow("no_assistant_turn", f"{name}: no assistant turn follows the prompt")
    prompt = with_system(prompt, fields.get("system"), format)
    if not prompt:
        raise BadRow("no_common_prompt", "nothing precedes chosen and rejected; expected at least one turn")
    return Preference(prompt, chosen, rejected, tools_of(fields.get("tools")), template_kwargs_of(fields))


def _prompt(fields: Fields, format: MessageFormat) -> list[Message]:
    """What both sides continue, if they do not include it themselves."""
    return [*earlier_turns(fields.get("history")), *_last_prompt(fields, format)]


def _last_prompt(fields: Fields, format: MessageFormat) -> list[Message]:
    given = {key: fields[key] for key in ("messages", "prompt", "instruction") if key in fields}
    if any(value != next(iter(given.values())) for value in given.values()):
        raise BadRow("ambiguous_format", f"{' and '.join(given)} say different things; name the prompt with columns")
    if "messages" in given:
        return turns_of(given["messages"], format)
    if "prompt" in given:
        written = isinstance(given["prompt"], str) and _by_markers(given["prompt"])
        if not written:
            return turns_of(given["prompt"], format, "prompt", "user")
        # "Assistant:" at the end asks for the answer; it is not a turn.
        return written[:-1] if written[-1] == {"role": "assistant", "content": ""} else written
    if "instruction" in given:
        return question_turns(given["instruction"], fields.get("input"), format, "instruction")
    return turns_of(fields["input"], format, "input", "user") if "input" in fields else []


def _split_dialogues(fields: Fields, chosen: list[Message], rejected: list[Message], format: MessageFormat) -> Parts:
    """The prompt of two whole dialogues, and the rest of each."""
    prompt = fields.get("prompt")
    if isinstance(prompt, list):
        turns = turns_of(prompt, format, "prompt", "user")
        # A system turn may precede it.
        begin = int(chosen[0]["role"] == "system" != turns[0]["role"] and chosen[0] == rejected[0])
        end = begin + len(turns)
        if _same_turns(chosen[begin:end], turns) and _same_turns(rejected[begin:end], turns):
            return chosen[:end], chosen[end:], rejected[end:]
        if begin or chosen[0] in turns or rejected[0] in turns:
            raise BadRow("bad_pair", "chosen and rejected repeat a part of the prompt, expected all of it or none")
        return turns, chosen, rejected  # they continue it with a turn of the user
    if chosen == rejected:
        raise BadRow("identical_pair", "chosen and rejected are the same")
    common = next(
        (i for i, (one, other) in enumerate(zip(chosen, rejected, strict=False)) if not same_turn(one, other)),
        min(len(chosen), len(rejected)),
    )
    # If one is the beginning of the other, its answer is a part of what they have in common.
    whole = common == min(len(chosen), len(rejected))
    while whole and common and chosen[common - 1]["role"] == "assistant":
        common -= 1
    if not common:
        raise BadRow("no_common_prompt", "chosen and rejected begin with different turns; expected a common prompt")
    return chosen[:common], chosen[common:], rejected[common:]


def _require_said_again(parts: Parts, fields: Fields, format: MessageFormat) -> None:
    """Raise BadRow for a prompt, messages and so on that contradict two whole dialogues."""
    prompt, chosen, rejected = parts
    if fields.get("history"):
        raise BadRow(
            "ambiguous_format", "got history, and whole dialogues under chosen and rejected; expected one of them"
        )
    if "messages" in fields:
        turns = turns_of(fields["messages"], format)
        if not any(_same_turns(turns, [*prompt, *side][: len(turns)]) for side in (chosen, rejected)):
            raise BadRow("ambiguous_format", "messages and chosen say different things; expected the same dialogue")
    texts = [_bare(turn["content"]) for turn in prompt]
    said = {key: fields[key] for key in ("prompt", "instruction", "input") if isinstance(fields.get(key), str)}
    # One that agrees is enough: some datasets have the raw question, too.
    if said and not any(_says(_bare(text), texts) for text in said.values()):
        names = " and ".join(said)
        raise BadRow("ambiguous_format", f"{names} and the dialogues under chosen and rejected say different things")


def _says(prompt: str, texts: list[str]) -> bool:
    """Whether `prompt` is in one of `texts`, the turns of a prompt, or is a transcript that holds the last of them."""
    return any(prompt in text for text in texts) or bool(texts) and texts[-1] in prompt


def _bare(text: str) -> str:
    return " ".join(text.split())


def _same_turns(some: list[Message], others: list[Message]) -> bool:
    return len(some) == len(others) and all(map(same_turn, some, others))


def _is_plain(fields: Fields) -> bool:
    """Whether a pair of strings is plain text, not answers in a chat."""
    prompt = fields.get("prompt", "")
    others = fields.keys() & {"messages", "instruction", "input", "history"}
    chat = fields.get("system") or tools_of(fields.get("tools")) or others
    return isinstance(prompt, str) and not chat and not _by_markers(prompt)


def _text_pair(prompt: str | None, chosen: str, rejected: str) -> TextPreference:
    if chosen == rejected:
        raise BadRow("identical_pair", "chosen and rejected are the same")
    if prompt is not None:
        return TextPreference(text_of(prompt, "prompt"), chosen, rejected)
    end = _common_words(chosen, rejected)
    if not end:
        raise BadRow("no_common_prompt", "chosen and rejected begin with different words; expected a common prompt")
    return TextPreference(chosen[:end], chosen[end:], rejected[end:])


def _common_words(one: str, other: str) -> int:
    """How many characters of whole words both begin with. A space belongs to the next word, as in tokenizers."""
    end = len(os.path.commonprefix([one, other]))
    if any(text[end : end + 1].isalnum() for text in (one, other)):
        while end and one[end - 1].isalnum():
            end -= 1
    while end and one[end - 1] == " ":
        end -= 1
    return end


def _by_markers(text: str) -> list[Message]:
    """The messages of a text that is written with "\\n\\nHuman:" and "\\n\\nAssistant:"; none of any other text."""
    head, *said = _MARKER.split("\n\n" + text_of(text, "the text").lstrip())
    if head or said[:1] != ["Human"] or "Assistant" not in said[2::2]:
        return []
    # One space belongs to the marker, and whitespace before the next marker to that one.
    return [
        {"role": _SPEAKERS[speaker], "content": content.removeprefix(" ").rstrip()}
        for speaker, content in zip(said[::2], said[1::2], strict=True)
    ]
