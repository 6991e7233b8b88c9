"""The registered datasets as they are published: file names, columns, nested fields, subsets; rows made up.

Each entry: the files of the repository, and the rows that the registry makes of them, by folder, without their ids.
"""

import datetime
import gzip
import io
import json
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq


@dataclass(frozen=True)
class Published:
    """`rows`: from `[{subset}/]{split}` to what is in its shards."""

    repository: str
    files: dict[str, bytes]
    rows: dict[str, list[dict]]


def parquet(*rows):
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows)), buffer)
    return buffer.getvalue()


def jsonl(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def json_list(*rows):
    return json.dumps(rows).encode()


def card(**configs):
    """A README whose YAML names the files: subset -> split -> pattern."""
    entries = [
        {"config_name": name, "data_files": [{"split": split, "path": path} for split, path in files.items()]}
        for name, files in configs.items()
    ]
    return f"---\nconfigs: {json.dumps(entries)}\n---\n# A dataset\n".encode()


def user(content, **more):
    return {"content": content, "role": "user", **more}


def assistant(content, **more):
    return {"content": content, "role": "assistant", **more}


def system(content):
    return {"content": content, "role": "system"}


def turns(*messages):
    """Plain messages, as they are written."""
    return [{"role": message["role"], "content": message["content"]} for message in messages]


def sharegpt(*pairs):
    return [{"from": name, "value": value} for name, value in pairs]


TRAIN_ONLY = card(default={"train": "data/train-*"})
TALK = [user("Hi"), assistant("Hello"), user("Bye"), assistant("See you")]
WHEN = datetime.datetime(2023, 4, 9, 0, 2, 53, tzinfo=datetime.UTC)

INSTRUCTIONS = {
    "HuggingFaceH4/no_robots": Published(
        "HuggingFaceH4/no_robots",
        {
            "README.md": card(default={"train": "data/train-*", "test": "data/test-*"}),
            "data/train-00000-of-00001.parquet": parquet(
                {"prompt": "Hi", "prompt_id": "ab12", "messages": [system("Joke."), *TALK], "category": "Chat"}
            ),
            "data/test-00000-of-00001.parquet": parquet(
                {"prompt": "Hi", "prompt_id": "cd34", "messages": TALK, "category": "Chat"}
            ),
        },
        {
            "train": [
                {
                    "messages": turns(system("Joke."), *TALK),
                    "metadata": {"category": "Chat", "prompt_id": "ab12"},
                }
            ]
        },
    ),
    "HuggingFaceTB/smoltalk": Published(
        "HuggingFaceTB/smoltalk",
        {
            "README.md": card(
                **{
                    "all": {"train": "data/all/train-*", "test": "data/all/test-*"},
                    "everyday-conversations": {"train": "data/everyday-conversations/train-*"},
                }
            ),
            "data/all/train-00000-of-00002.parquet": parquet({"messages": TALK, "source": "smol-magpie-ultra"}),
            "data/all/train-00001-of-00002.parquet": parquet({"messages": TALK[:2], "source": "smol-rewrite"}),
            "data/all/test-00000-of-00001.parquet": parquet({"messages": TALK, "source": "held out"}),
            "data/everyday-conversations/train-00000-of-00001.parquet": parquet(
                {"full_topic": "Work", "messages": TALK}
            ),
        },
        {
            "all/train": [
                {"messages": turns(*TALK), "metadata": {"source": "smol-magpie-ultra"}},
                {"messages": turns(*TALK[:2]), "metadata": {"source": "smol-rewrite"}},
            ]
        },
    ),
    "PrimeIntellect/verifiable-math-problems": Published(
        "PrimeIntellect/verifiable-math-problems",
        {
            "README.md": TRAIN_ONLY,
            "data/train-00000-of-00001.parquet": parquet(
                {
                    "source": "numina_1.5",
                    "task_type": "verifiable_math",
                    "in_source_id": "1",
                    "prompt": "2+2?",
                    "gold_standard_solution": "It is \\boxed{4}.",
                    "verification_info": '{"ground_truth": "4"}',
                    "metadata": "{}",
                    "problem_id": "vfm_1",
                }
            ),
        },
        {
            "train": [
                {
                    "messages": turns(user("2+2?"), assistant("It is \\boxed{4}.")),
                    "metadata": {"source": "numina_1.5", "task_type": "verifiable_math", "problem_id": "vfm_1"},
                }
            ]
        },
    ),
    "TIGER-Lab/AceCode-89K": Published(
        "TIGER-Lab/AceCode-89K",
        {
            "README.md": TRAIN_ONLY,
            "data/train-00000-of-00001.parquet": parquet(
                {
                    "id": "oss_1",
                    "source": "oss",
                    "question": "Add two numbers.",
                    "test_cases": ["assert add(1, 2) == 3"],
                    "inferences": [
                        {"model_name": "a", "completion": "def add(a, b): return a", "pass_rate": 0.1},
                        {"model_name": "b", "completion": "def add(a, b): return a + b", "pass_rate": 1.0},
                        {"model_name": "c", "completion": "def add(*n): return sum(n)", "pass_rate": 1.0},
                    ],
                    "context_messages": [[user("Add two numbers.")]],
                }
            ),
        },
        {
            "train": [
                {
                    "messages": turns(user("Add two numbers."), assistant("def add(a, b): return a + b")),
                    "metadata": {"id": "oss_1", "source": "oss"},
                }
            ]
        },
    ),
    "allenai/WildChat": Published(
        "allenai/WildChat",
        {
            "README.md": TRAIN_ONLY,
            "data/train-00000-of-00001.parquet": parquet(
                {
                    "conversation_id": "cf1267ca",
                    "model": "gpt-3.5-turbo",
                    "timestamp": WHEN,
                    "conversation": [
                        {**message, "language": "English", "redacted": False, "toxic": False} for message in TALK[:2]
                    ],
                    "turn": 1,
                    "language": "English",
                    "openai_moderation": [{"categories": {"hate": False}, "flagged": False}],
                    "detoxify_moderation": [{"toxicity": 0.01}],
                    "toxic": False,
                    "redacted": False,
                }
            ),
        },
        {
            "train": [
                {
                    "messages": [
                        {**turn, "language": "English", "redacted": False, "toxic": False} for turn in turns(*TALK[:2])
                    ],
                    "metadata": {
                        "conversation_id": "cf1267ca",
                        "model": "gpt-3.5-turbo",
                        "timestamp": "2023-04-09T00:02:53+00:00",
                        "language": "English",
                        "toxic": False,
                        "redacted": False,
                    },
                }
            ]
        },
    ),
    "allenai/tulu-3-sft-mixture": Published(
        "allenai/tulu-3-sft-mixture",
        {
            "README.md": TRAIN_ONLY,
            "data/train-00000-of-00001.parquet": parquet({"id": "x_1", "messages": TALK, "source": "ai2/coconot"}),
        },
        {"train": [{"messages": turns(*TALK), "metadata": {"id": "x_1", "source": "ai2/coconot"}}]},
    ),
    "allenai/tulu-v2-sft-mixture": Published(
        "allenai/tulu-v2-sft-mixture",
        {
            "README.md": TRAIN_ONLY,
            "data/train-00000-of-00001.parquet": parquet(
                {"dataset": "flan_v2", "id": "flan_1", "messages": [system("Be brief."), *TALK]}
            ),
        },
        {
            "train": [
                {
                    "messages": turns(system("Be brief."), *TALK),
                    "metadata": {"dataset": "flan_v2", "id": "flan_1"},
                }
            ]
        },
    ),
    "allenai/tulu-v2-sft-mixture-olmo-4096": Published(
        "allenai/tulu-v2-sft-mixture-olmo-4096",
        {"tulu-v2-sft-mixture-olmo-4096.jsonl": jsonl({"dataset": "cot", "id": "cot_1", "messages": TALK})},
        {"train": [{"messages": turns(*TALK), "metadata": {"dataset": "cot", "id": "cot_1"}}]},
    ),
    "bespokelabs/Bespoke-Stratos-17k": Published(
        "bespokelabs/Bespoke-Stratos-17k",
        {
            "README.md": TRAIN_ONLY,
            "data/train-00000-of-00001.parquet": parquet(
                {
                    "system": "Think first.",
                    "conversations": sharegpt(("user", "2+2?"), ("assistant", "<|begin_of_thought|>...4")),
                }
            ),
        },
        {
            "train": [
                {
                    "messages": turns(system("Think first."), user("2+2?"), assistant("<|begin_of_thought|>...4")),
                    "metadata": {},
                }
            ]
        },
    ),
    "cognitivecomputations/dolphin-r1-nonreasoning": Published(
        "cognitivecomputations/dolphin-r1",
        dolphin := {
            "README.md": card(
                **{
                    name: {"train": f"dolphin-r1-{name}.jsonl"}
                    for name in ("nonreasoning", "reasoning-deepseek", "reasoning-flash")
                }
            ),
            "dolphin-r1-nonreasoning.jsonl": jsonl(
                {"messages": TALK, "score": 4, "refusal": False, "compliance_rating": 5, "overall_quality": 4}
            ),
            "dolphin-r1-reasoning-deepseek.jsonl": jsonl(
                {"messages": [user("2+2?")], "reasoning": "Hm.", "answer": "4", "model": "deepseek-r1"},
                {"messages": [system("s"), user("2?")], "reasoning": "", "answer": "2", "model": "deepseek-r1"},
            ),
            "dolphin-r1-reasoning-flash.jsonl": jsonl(
                {"messages": [user("3+3?")], "reasoning": "Hm.", "answer": "6", "model": "flash"}
            ),
        },
        {
            "nonreasoning/train": [
                {
                    "messages": turns(*TALK),
                    "metadata": {"score": 4, "refusal": False, "compliance_rating": 5, "overall_quality": 4},
                }
            ]
        },
    ),
    "cognitivecomputations/dolphin-r1-reasoning": Published(
        "cognitivecomputations/dolphin-r1",
        dolphin,
        {
            "reasoning-deepseek/train": [{"messages": turns(user("2+2?"), assistant("4")), "metadata": {}}],
            "reasoning-flash/train": [{"messages": turns(user("3+3?"), assistant("6")), "metadata": {}}],
        },
    ),
    "facebook/natural_reasoning": Published(
        "facebook/natural_reasoning",
        {
            "full.jsonl": jsonl(
                {
                    "question": "Why?",
                    "reference_answer": "So.",
                    "responses": [{"response_model": "Llama3.3-70B-Instruct", "response": "Because."}],
                }
            )
        },
        {"train": [{"messages": turns(user("Why?"), assistant("Because.")), "metadata": {"reference_answer": "So."}}]},
    ),
    **{
        f"GeneralReasoning/GeneralThought-195K-{name}": Published(
            "GeneralReasoning/GeneralThought-195K",
            {
                "GeneralThought-195K.jsonl": jsonl(
                    {
                        "question_id": 1,
                        "question_url": "gr.inc/question/1",
                        "question": "2+2?",
                        "reference_answer": "4",
                        "prev_messages": None,
                        "model_name": "R1",
                        "model_answer": "Four.",
                        "model_reasoning": "Count.",
                        "task": "Sums",
                        "question_license": "MIT",
                        "question_source": "Mine",
                        "community_answer_score": 0,
                        "verifier_score": 1.0,
                    }
                )
            },
            {
                "train": [
                    {
                        "messages": turns(user("2+2?"), assistant(answer)),
                        "metadata": {
                            "question_id": 1,
                            "question_url": "gr.inc/question/1",
                            "reference_answer": "4",
                            "model_name": "R1",
                            "question_source": "Mine",
                            "task": "Sums",
                        },
                    }
                ]
            },
        )
        for name, answer in (("modelanswer", "Four."), ("modelreasoning", "Count."))
    },
    "meta-math/MetaMathQA": Published(
        "meta-math/MetaMathQA",
        {
            "MetaMathQA-395K.json": json_list(
                {"type": "GSM_Rephrased", "query": "2+2?", "original_question": "1+1?", "response": "4"}
            )
        },
        {"train": [{"messages": turns(user("2+2?"), assistant("4")), "metadata": {"type": "GSM_Rephrased"}}]},
    ),
    "open-r1/OpenThoughts-114k-math": Published(
        "open-r1/OpenThoughts-114k-math",
        {
            "README.md": TRAIN_ONLY,
            "data/train-00000-of-00001.parquet": parquet(
                {
                    "source": "olympiads",
                    "problem": "2+2?",
                    "solution": "4",
                    "messages": [user("2+2?"), assistant("<think>\nCount.\n</think>\n4")],
                    "system": "Think.",
                    "conversations": sharegpt(("user", "2+2?"), ("assistant", "4")),
                    "generated_token_count": 7,
                    "correct": True,
                }
            ),
        },
        {
            "train": [
                {
                    "messages": turns(user("2+2?"), assistant("<|start_think|>\nCount.\n<|end_think|>\n4")),
                    "metadata": {
                        "system": "Think.",
                        "source": "olympiads",
                        "generated_token_count": 7,
                        "correct": True,
                    },
                }
            ]
        },
    ),
    "openbmb/UltraInteract_sft": Published(
        "openbmb/UltraInteract_sft",
        {
            "0000_sft.parquet": parquet(
                {
                    "task": "Coding",
                    "dataset": "codecontest",
                    "instruction": "Sort.",
                    "response": "sorted(x)",
                    "id": "1",
                    "parent_id": "0",
                }
            )
        },
        {
            "train": [
                {
                    "messages": turns(user("Sort."), assistant("sorted(x)")),
                    "metadata": {"task": "Coding", "dataset": "codecontest"},
                }
            ]
        },
    ),
    "sherryy/tulu-3-sft-personas-instruction-following-expanded": Published(
        "sherryy/tulu-3-sft-personas-instruction-following-expanded",
        {
            "README.md": TRAIN_ONLY,
            "data/train-00000-of-00001.parquet": parquet(
                {"id": "p_1", "prompt": "Hi", "messages": TALK, "constraints": ["x"], "dataset": "personas"}
            ),
        },
        {"train": [{"messages": turns(*TALK), "metadata": {"dataset": "personas", "id": "p_1"}}]},
    ),
    "teknium/OpenHermes-2.5": Published(
        "teknium/OpenHermes-2.5",
        {
            "openhermes2_5.json": json_list(
                {
                    "custom_instruction": None,
                    "topic": None,
                    "model_name": None,
                    "model": None,
                    "skip_prompt_formatting": False,
                    "category": "orca",
                    "conversations": [
                        {"from": "system", "value": "Be brief.", "weight": None},
                        {"from": "human", "value": "Hi", "weight": 0},
                        {"from": "gpt", "value": "Hello", "weight": 1},
                    ],
                    "views": None,
                    "language": None,
                    "id": None,
                    "title": None,
                    "idx": None,
                    "hash": None,
                    "avatarUrl": None,
                    "system_prompt": None,
                    "source": "airoboros2.2",
                }
            )
        },
        {
            "train": [
                {
                    "messages": [
                        system("Be brief."),
                        {**user("Hi"), "train": False},
                        {**assistant("Hello"), "train": True},
                    ],
                    "metadata": {"id": None, "category": "orca", "source": "airoboros2.2"},
                }
            ]
        },
    ),
    "trl-lib/Capybara": Published(
        "trl-lib/Capybara",
        {
            "README.md": card(default={"train": "data/train-*", "test": "data/test-*"}),
            "data/train-00000-of-00001.parquet": parquet({"source": "Airoboros", "messages": TALK, "num_turns": 2}),
            "data/test-00000-of-00001.parquet": parquet({"source": "EverythingLM", "messages": TALK, "num_turns": 2}),
        },
        {"train": [{"messages": turns(*TALK), "metadata": {"source": "Airoboros", "num_turns": 2}}]},
    ),
    "yahma/alpaca-cleaned": Published(
        "yahma/alpaca-cleaned",
        {
            "alpaca_data_cleaned.json": json_list(
                {"instruction": "Name a colour.", "input": "", "output": "Red."},
                {"instruction": "Translate to Spanish", "input": "Hello", "output": "¡Hola!"},
            )
        },
        {
            "train": [
                {"messages": turns(user("Name a colour."), assistant("Red.")), "metadata": {}},
                {"messages": turns(user("Translate to Spanish\nHello"), assistant("¡Hola!")), "metadata": {}},
            ]
        },
    ),
    "HuggingFaceTB/smoltalk2/OpenThoughts3_1.2M_think": Published(
        "HuggingFaceTB/smoltalk2",
        {
            "README.md": card(
                SFT={
                    "OpenThoughts3_1.2M_think": "SFT/OpenThoughts3_1.2M_think-*",
                    "table_gpt_no_think": "SFT/table_gpt_no_think-*",
                },
                Preference={"tulu_3_8b_pref_mix_think": "Preference/tulu_3-*"},
            ),
            "SFT/OpenThoughts3_1.2M_think-00000-of-00001.parquet": parquet(
                {
                    "messages": [user("2+2?"), assistant("<think>\nCount.\n</think>\n4")],
                    "chat_template_kwargs": {
                        "custom_instructions": None,
                        "enable_thinking": True,
                        "python_tools": None,
                        "xml_tools": ["f"],
                    },
                    "source": "OpenThoughts3_1.2M",
                }
            ),
            "SFT/table_gpt_no_think-00000-of-00001.parquet": parquet({"messages": TALK, "source": "table_gpt"}),
            "Preference/tulu_3-00000-of-00001.parquet": parquet({"chosen": TALK, "rejected": TALK}),
        },
        {
            "SFT/OpenThoughts3_1.2M_think": [
                {
                    "messages": turns(user("2+2?"), assistant("<|start_think|>\nCount.\n<|end_think|>\n4")),
                    "chat_template_kwargs": {"enable_thinking": True, "xml_tools": ["f"]},
                    "metadata": {},
                }
            ]
        },
    ),
    "nvidia/Nemotron-Post-Training-Dataset-v2/stem": Published(
        "nvidia/Nemotron-Post-Training-Dataset-v2",
        {
            "README.md": card(default={"stem": "data/stem-*", "chat": "data/chat-*"}),
            "data/stem-00000-of-00001.parquet": parquet(
                *(
                    {
                        "uuid": f"1-{switch}",
                        "license": "cc-by-4.0",
                        "generator": "DeepSeek-R1-0528",
                        "version": "v2",
                        "category": "stem",
                        "reasoning": switch,
                        "messages": [system(""), user("2+2?"), assistant("4")],
                    }
                    for switch in ("on", "off")
                )
            ),
            "data/chat-00000-of-00001.parquet": parquet({"messages": TALK, "reasoning": "off"}),
        },
        {
            "stem": [
                {
                    "messages": turns(system(""), user("2+2?"), assistant("4")),
                    "chat_template_kwargs": {"enable_thinking": switch},
                    "metadata": {"category": "stem", "generator": "DeepSeek-R1-0528", "license": "cc-by-4.0"},
                }
                for switch in (True, False)
            ]
        },
    ),
}

PAIR = {"chosen": [user("Hi"), assistant("Hello")], "rejected": [user("Hi"), assistant("No.")]}
PAIR_MADE = {
    "prompt": turns(user("Hi")),
    "chosen": turns(assistant("Hello")),
    "rejected": turns(assistant("No.")),
}

PREFERENCES = {
    "Anthropic/hh-rlhf": Published(
        "Anthropic/hh-rlhf",
        {
            "README.md": b"---\nlicense: mit\n---\n# HH\n",
            "harmless-base/train.jsonl.gz": gzip.compress(jsonl({"chosen": "x", "rejected": "y"})),
            "helpful-base/test.jsonl.gz": gzip.compress(jsonl({"chosen": "x", "rejected": "y"})),
            "helpful-base/train.jsonl.gz": gzip.compress(
                jsonl(
                    {
                        "chosen": "\n\nHuman: A\n\nAssistant: B\n\nHuman: C\n\nAssistant: D",
                        "rejected": "\n\nHuman: A\n\nAssistant: B\n\nHuman: C\n\nAssistant: E",
                    }
                )
            ),
            "red-team-attempts/red_team_attempts.jsonl.gz": gzip.compress(jsonl({"transcript": "x"})),
        },
        {
            "train": [
                {
                    "prompt": turns(user("A"), assistant("B"), user("C")),
                    "chosen": turns(assistant("D")),
                    "rejected": turns(assistant("E")),
                    "metadata": {},
                }
            ]
        },
    ),
    "HuggingFaceH4/ultrafeedback_binarized": Published(
        "HuggingFaceH4/ultrafeedback_binarized",
        {
            "README.md": card(
                default={
                    split: f"data/{split}-*"
                    for split in ("train_prefs", "train_sft", "test_prefs", "test_sft", "train_gen", "test_gen")
                }
            ),
            **{
                f"data/{split}-00000-of-00001.parquet": parquet(
                    {
                        "prompt": "Hi",
                        "prompt_id": split,
                        **PAIR,
                        "messages": PAIR["chosen"],
                        "score_chosen": 8.5,
                        "score_rejected": 3.0,
                    }
                )
                for split in ("train_prefs", "train_sft", "test_prefs", "test_sft", "train_gen", "test_gen")
            },
        },
        {"train_prefs": [{**PAIR_MADE, "metadata": {"prompt": "Hi", "score_chosen": 8.5, "score_rejected": 3.0}}]},
    ),
    "allenai/olmo-2-1124-7b-preference-mix": Published(
        "allenai/olmo-2-1124-7b-preference-mix",
        {
            "README.md": TRAIN_ONLY,
            "data/train-00000-of-00001.parquet": parquet(
                {
                    "source": "ultrafeedback",
                    "id": "1",
                    "prompt": "Hi",
                    **PAIR,
                    "chosen_rating": 4.5,
                    "rejected_rating": 1.0,
                    "chosen_model": "a",
                    "rejected_model": "b",
                }
            ),
        },
        {"train": [{**PAIR_MADE, "metadata": {"prompt": "Hi", "chosen_rating": 4.5, "rejected_rating": 1.0}}]},
    ),
    "mlabonne/orpo-dpo-mix-40k": Published(
        "mlabonne/orpo-dpo-mix-40k",
        {
            "README.md": TRAIN_ONLY,
            "data/train-00000-of-00001.parquet": parquet(
                {"source": "Airoboros", **PAIR, "prompt": "Hi", "question": None},
                {"source": "toxic", **PAIR, "prompt": "Hi", "question": "Hi"},
            ),
        },
        {
            "train": [
                {**PAIR_MADE, "metadata": {"source": "Airoboros", "question": None}},
                {**PAIR_MADE, "metadata": {"source": "toxic", "question": "Hi"}},
            ]
        },
    ),
}
