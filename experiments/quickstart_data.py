"""Two small chat datasets made by program, with skills that a tiny model can learn and be scored on, and a preference.

opposites: "Give the opposite of each word: hot, near, big." -> "cold, far, small."
reversals: "Write these words backwards in order: sun, tree, nine." -> "nine, tree, sun."

exclaimed: pairs of answers to the prompts of the others: "cold, far, small!" is preferred to "cold, far, small."

Held-out prompts share no list of words with any training dialogue, so they cannot be answered from memory.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from marin_sft.data.rows.row_files import find_files, read_rows, write_rows
from marin_sft.execution.executor import ExecutorStep, step_fn, this_output_path

Message = dict[str, Any]

OPPOSITES = """
    hot cold, big small, fast slow, near far, light dark, open closed, early late, full empty, high low, hard soft,
    loud quiet, new old, rich poor, strong weak, thick thin, wet dry, wide narrow, young aged, sharp blunt,
    rough smooth, happy sad, brave timid, clean dirty, deep shallow
"""
NOUNS = """
    sun moon star tree leaf river stone cloud bird fish horse door table lamp book road bridge boat train clock
    apple bread salt milk garden forest island valley winter summer morning evening
    one two three four five six seven nine
"""


@dataclass(frozen=True)
class QuickstartDataConfig:
    """`skill` is "opposites" or "reversals"; sizes count dialogues and prompts."""

    skill: str
    train_dialogues: int = 4000
    held_out_prompts: int = 100
    words_per_question: int = 3
    two_turn_share: float = 0.25
    seed: int = 0
    output_path: str = this_output_path()


def quickstart_dataset(skill: str) -> ExecutorStep[QuickstartDataConfig]:
    """`train/*.jsonl.gz` and `held_out/*.jsonl.gz`, rows with `messages`."""
    return ExecutorStep(
        name=f"documents/{skill}",
        description=f"Chat dialogues that teach {skill}",
        fn=make_dialogues,
        config=QuickstartDataConfig(skill),
    )


@step_fn(kind="quickstart_data")
def make_dialogues(config: QuickstartDataConfig) -> None:
    dice = random.Random(f"{config.skill} {config.seed}")
    ask = {"opposites": _ask_opposites, "reversals": _ask_reversal}[config.skill]
    lists = _distinct_lists(config, dice)
    held_out = [{"messages": _turn(ask, words)} for words in lists[: config.held_out_prompts]]
    train = []
    remaining = iter(lists[config.held_out_prompts :])
    for words in remaining:
        messages = _turn(ask, words)
        if dice.random() < config.two_turn_share and (more := next(remaining, None)):
            messages += _turn(ask, more)
        train.append({"messages": messages})
    write_rows(f"{config.output_path}/train", train)
    write_rows(f"{config.output_path}/held_out", held_out)


@dataclass(frozen=True)
class ExclaimedConfig:
    """`dialogues`: outputs of `quickstart_dataset`. `pairs_each`: how many are made from each."""

    dialogues: tuple[str, ...]
    pairs_each: int = 240
    output_path: str = this_output_path()


def exclaimed_preferences(
    datasets: Sequence[ExecutorStep[QuickstartDataConfig]],
) -> ExecutorStep[ExclaimedConfig]:
    """`train/*.jsonl.gz`, rows with `prompt`, `chosen` and `rejected`, and `held_out/*.jsonl.gz`, rows with `messages`
    whose last is the preferred answer."""
    return ExecutorStep(
        name="documents/exclaimed",
        description="Pairs that prefer answers with an exclamation mark",
        fn=make_preferences,
        config=ExclaimedConfig(tuple(datasets)),  # type: ignore[arg-type]  # paths by the time that it runs
    )


@step_fn(kind="quickstart_preferences")
def make_preferences(config: ExclaimedConfig) -> None:
    train, held_out = [], []
    for path in config.dialogues:
        for question, answer in _first_turns(f"{path}/train")[: config.pairs_each]:
            train.append({"prompt": [question], "chosen": [_exclaimed(answer)], "rejected": [answer]})
        held_out += [
            {"messages": [question, _exclaimed(answer)]} for question, answer in _first_turns(f"{path}/held_out")
        ]
    write_rows(f"{config.output_path}/train", train)
    write_rows(f"{config.output_path}/held_out", held_out)


def _first_turns(directory: str) -> list[tuple[Message, Message]]:
    rows = (source.row for file in find_files([directory]) for source in read_rows(file))
    return [(row["messages"][0], row["messages"][1]) for row in rows if isinstance(row, dict)]


def _exclaimed(answer: Message) -> Message:
    return {**answer, "content": f"{answer['content'].removesuffix('.')}!"}


def _distinct_lists(config: QuickstartDataConfig, dice: random.Random) -> list[tuple[str, ...]]:
    words = sorted(_opposite_of()) if config.skill == "opposites" else NOUNS.split()
    wanted = config.held_out_prompts + round(config.train_dialogues * (1 + config.two_turn_share))
    lists: dict[tuple[str, ...], None] = {}
    while len(lists) < wanted:
        lists[tuple(dice.sample(words, config.words_per_question))] = None
    return list(lists)


def _turn(ask: Callable[[tuple[str, ...]], tuple[str, str]], words: tuple[str, ...]) -> list[dict[str, str]]:
    question, answer = ask(words)
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def _ask_opposites(words: tuple[str, ...]) -> tuple[str, str]:
    opposite_of = _opposite_of()
    answer = ", ".join(opposite_of[word] for word in words)
    return f"Give the opposite of each word: {', '.join(words)}.", f"{answer}."


def _ask_reversal(words: tuple[str, ...]) -> tuple[str, str]:
    return f"Write these words backwards in order: {', '.join(words)}.", f"{', '.join(reversed(words))}."


def _opposite_of() -> dict[str, str]:
    pairs = [pair.split() for pair in OPPOSITES.split(",")]
    return {**{a: b for a, b in pairs}, **{b: a for a, b in pairs}}
