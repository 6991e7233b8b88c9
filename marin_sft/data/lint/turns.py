"""What is wrong with the turns of one dialogue."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence

from marin_sft.data.chat.reasoning import CLOSE, KEYS, OPEN
from marin_sft.data.lint.findings import Found
from marin_sft.data.messages.examples import Message

_RESULTS = ("tool", "environment")
_BEFORE = ("system", "developer")
# How rows write calls and results that are not under keys of their own.
_CALL_IN_TEXT = re.compile(
    r"<tool_call|<function|<\|python_tag\|>|<\|tool_call|\[TOOL_CALLS\]|<\|action|^\s*(\{|\[\s*\{)\s*\"(name|type)\"|"
    r"^Action:|```(tool|json|python)",
    re.MULTILINE,
)
_RESULT_IN_TEXT = re.compile(r"\s*(<tool_response|<tool_result|<function_results?|FUNCTION RESPONSE|Observation:)")
_CALL_BY_KEY = re.compile("call|tool|function|action", re.IGNORECASE)
_OWN = ("tool_calls", "tool_call_id", "name", "train", *KEYS)
_SHORT_COPY, _LONG_COPY = 10, 60  # characters: shorter ones are greetings and the like


def find_in_turns(messages: Sequence[Message]) -> Iterator[Found]:
    """All findings that concern the turns, in their order."""
    yield from _order(messages)
    if any(len(turn) > 2 or turn["role"] in _RESULTS for turn in messages):
        yield from _tools(messages)
    asked = ""
    for turn in messages:
        if turn["role"] == "user":
            asked = turn["content"]
        elif turn["role"] == "assistant" and turn.get("train") is not False:
            yield from _answer(turn, asked)


def copies(prompt: str, answer: str) -> bool:
    """Whether an answer is the prompt, or begins with all of it. Short ones are not meant: "Hello!" may be both."""
    prompt, answer = prompt.strip(), answer.strip()
    if len(prompt) < _SHORT_COPY or len(answer) < len(prompt):
        return False
    return answer.casefold() == prompt.casefold() or len(prompt) >= _LONG_COPY and answer.startswith(prompt)


def _answer(turn: Message, asked: str) -> Iterator[Found]:
    content = turn["content"]
    bare = content.strip()
    calls = len(turn) > 2 and _calls(turn)
    thought = next((turn[key] for key in KEYS if turn.get(key)), "") if len(turn) > 2 else ""
    if bare.startswith(OPEN) and CLOSE not in bare:
        yield Found("unanswered_thinking", f"{OPEN} is never closed", content)
    elif CLOSE in bare:
        inside, _, after = bare.rpartition(CLOSE)
        if not after.strip() and not calls:
            yield Found("unanswered_thinking", f"nothing follows {CLOSE}", content)
        elif inside.strip() == OPEN:
            yield Found("empty_thinking", f"{OPEN} holds nothing", content)
    elif not bare and thought and not calls:
        yield Found("unanswered_thinking", "it has reasoning, and no content", str(thought))
    elif not bare and not calls:
        yield Found("empty_answers", "it has no text", asked)
    if copies(asked, content):
        yield Found("copied_prompts", "it repeats what the user said", content)


def _order(messages: Sequence[Message]) -> Iterator[Found]:
    roles = [turn["role"] for turn in messages]
    # A turn that calls tools needs a result before the next, which is another finding.
    talk = ["calls" if turn.get("tool_calls") else turn["role"] for turn in messages if turn["role"] not in _BEFORE]
    first = next((i for i, role in enumerate(roles) if role not in _BEFORE), len(roles))
    wrong = "a system turn is not the first" if len(talk) < len(roles) - first else None
    if "assistant" not in roles:
        wrong = "there is no turn of the assistant"
    elif talk[0] in ("assistant", "calls"):
        wrong = "the assistant begins"
    elif talk[-1] == "user":
        wrong = "the user has the last word, so that the last turn is not trained"
    else:
        same = next((a for a, b in zip(talk, talk[1:], strict=False) if a == b and a in ("user", "assistant")), None)
        wrong = f"two turns of the {same} follow each other" if same else wrong
    if wrong:
        shown = " ".join(roles[:20])
        yield Found("role_order", wrong, f"{shown}{' ...' if len(roles) > 20 else ''}")


def _calls(turn: Message) -> bool:
    """Whether a turn calls tools, under any key or in its text."""
    if turn.get("tool_calls"):
        return True
    return any(turn[key] and _CALL_BY_KEY.search(key) for key in turn if key not in ("role", "content", *_OWN))


def _tools(messages: Sequence[Message]) -> Iterator[Found]:
    said: set[str] = set()  # calls since the user spoke
    calls: Sequence[Message] = ()  # of the last turn of the assistant
    results: list[str | None] = []
    called = False
    for turn in messages:
        role = turn["role"]
        if role in _RESULTS or (role == "user" and _RESULT_IN_TEXT.match(turn["content"])):
            unknown = turn.get("tool_call_id") is not None and _ids(calls) and turn["tool_call_id"] not in _ids(calls)
            if role in _RESULTS and (not called or unknown):
                why = f"no call has the id {str(turn['tool_call_id'])[:80]!r}" if called else "no call precedes it"
                yield Found("results_without_calls", why, turn["content"])
            results.append(turn.get("tool_call_id"))
            continue
        yield from _missing(calls, results)
        calls, results, called = turn.get("tool_calls") or (), [], False
        if role == "user":
            said.clear()
        elif role == "assistant":
            called = (len(turn) > 2 and _calls(turn)) or _CALL_IN_TEXT.search(turn["content"]) is not None
            for call in calls:
                text = json.dumps([call["function"].get("name"), call["function"].get("arguments")], sort_keys=True)
                if text in said:
                    yield Found("repeated_tool_calls", f"{call['function'].get('name')} is called again", text)
                said.add(text)
    if results:
        yield from _missing(calls, results)


def _ids(calls: Sequence[Message]) -> set[str]:
    """The ids of the calls; none unless all have one."""
    ids = [call.get("id") for call in calls]
    return {str(id) for id in ids} if all(ids) else set()


def _missing(calls: Sequence[Message], results: Sequence[str | None]) -> Iterator[Found]:
    """Calls without results. Without ids, one result may hold those of several calls."""
    lost = [call for call in calls if results and all(results) and call.get("id") and call["id"] not in results]
    if calls and not results:
        lost = list(calls)
    if lost:
        names = ", ".join(str(call["function"].get("name")) for call in lost)
        text = json.dumps([call["function"] for call in lost], ensure_ascii=False, default=str)
        yield Found("calls_without_results", f"no result of {names[:200]}", text)
