import re
from dataclasses import replace

import pytest

from marin_sft.evaluation.served.comparison import Answered, Served, first_difference, table
from marin_sft.evaluation.served.files import JINJA, TOKENIZER, Files

SAME = Answered(
    set="held_out",
    prompt="<user>a",
    server_prompt="<user>a",
    prompt_ids=[1, 5],
    server_prompt_ids=[1, 5],
    ids=[7, 8, 2],
    server_ids=[7, 8, 2],
    text="w7 w8 <end>",
    server_text="w7 w8 <end>",
    finish="stop",
    server_finish="stop",
    logprob_difference=1e-6,
)
SILENT = Files(templates={}, lengths={"config.json": 64}, llama_cpp=64, positions=64)
OTHER = replace(SAME, server_ids=[7, 9, 2], server_text="w7 w9 <end>")


def compared(*answers: Answered, **changes: object) -> Served:
    sound = {
        "templates": {"of training": "t", "in the server": "t"},
        "files": SILENT,
        "is_trained_with": True,
        "added": ([1, 2], [1, 2]),
        "ends": ([2], [2, 3]),
        "lengths": (64, 64),
        "tie_gap": 1e-3,
        "logprob_tolerance": 0.01,
        "token": lambda id: f"w{id}",
    }
    return Served(answers=answers, **{**sound, **changes})


def differences(found: Served) -> dict[str, str]:
    return {check.name: check.difference for check in found.checks() if check.difference is not None}


def test_equal_things_do_not_differ():
    found = compared(SAME, replace(SAME, server_prompt=None))
    assert not differences(found)
    metrics = found.metrics()
    assert metrics["answers_equal"] == metrics["stopped"] == metrics["prompt_texts_equal"] == 2
    assert [line.split()[-1] for line in table(found)][:-1] == ["equal"] * 9


def test_a_near_tie_is_counted_and_is_no_difference():
    tie, other = replace(OTHER, gap=9e-4), replace(OTHER, gap=1.1e-3)
    found = compared(SAME, tie)
    assert not differences(found)
    assert (found.metrics()["answers_equal"], found.metrics()["near_ties"]) == (1, 1)
    found = compared(SAME, tie, other)
    said = "prompt 3 of set 'held_out': token 2 is 'w8' (id 8), and 'w9' (id 9) in the server; ours has 0.0011 more"
    assert differences(found)["answers"].startswith(said)
    assert found.metrics()["near_ties"] == 1 and found.metrics()["answers_differ"] == 1
    assert [answer.row(1e-3)["near_tie"] for answer in found.answers] == [False, True, False]


@pytest.mark.parametrize(
    ("changes", "name", "message"),
    [
        (
            {"templates": {"of training": "abc", "in the server": "abd"}},
            "template",
            "from character 3 on, ours is 'abc'",
        ),
        ({"templates": {"of training": "abc", "in the server": None}}, "template", "in the server .* has none"),
        ({"added": ([1, 2], [1])}, "added tokens", "token 2 is 'w2' .id 2., and missing in the server"),
        ({"ends": ([2, 4], [2])}, "end tokens", "'w4' .id 4. ends an answer in training, and .* names 'w2'"),
        ({"ends": ([2], [])}, "end tokens", "names nothing"),
        ({"lengths": (64, 256)}, "context length", "the model takes 64 tokens, the server 256"),
    ],
)
def test_each_kind_of_difference_is_named_alone(changes, name, message):
    found = differences(compared(SAME, **changes))
    assert list(found) == [name] and re.search(message, found[name])


@pytest.mark.parametrize(
    ("templates", "said"),
    [
        (
            {JINJA: "abd", TOKENIZER: "abc"},
            "chat_template.jinja and tokenizer_config.json have different templates, and",
        ),
        (
            {JINJA: "abd", TOKENIZER: "abc", "m.gguf": "abc"},
            "chat_template.jinja has another template than tokenizer_co",
        ),
        ({JINJA: "abc", TOKENIZER: "abd", "m.gguf": "abc"}, "tokenizer_config.json has another template than chat_te"),
        ({JINJA: "abc", TOKENIZER: "abc", "m.gguf": "abd"}, "m.gguf has another template than chat_template.jinja and"),
    ],
)
def test_of_files_that_disagree_the_odd_one_is_named(templates, said):
    """If nothing says what was trained with, the file that is read first is not the right one for that."""
    files = replace(SILENT, templates=templates)
    ours = templates[JINJA]
    places = {"of the export": ours, **{f"in {name}": text for name, text in templates.items()}, "in the server": ours}
    found = differences(compared(SAME, templates=places, files=files, is_trained_with=False))
    assert list(found) == ["template"] and found["template"].startswith(said)
    assert "from character 3 on, 'ab" in found["template"]
    assert "transformers and vLLM take that of chat_template.jinja; compare with --tokenizer DIR" in found["template"]


def test_a_server_with_a_template_that_no_file_has():
    places = {"of the export": "a", f"in {JINJA}": "a", "in the server": "b"}
    found = differences(compared(SAME, templates=places, is_trained_with=False))
    assert found["template"].startswith("the template in the server is not that of the export: from character 1")


@pytest.mark.parametrize(
    ("lengths", "said"),
    [
        ({"m.gguf": 64}, None),
        ({TOKENIZER: 64}, None),
        ({TOKENIZER: 4096}, None),
        ({"m.gguf": 32}, "64 in config.json, 32 in m.gguf; correct the wrong one"),
        ({TOKENIZER: 32}, "64 in config.json, 32 in tokenizer_config.json (model_max_length); correct the wrong one"),
        ({TOKENIZER: 32, "m.gguf": 32}, "correct that of config.json, which is not as the others, or export again"),
        ({TOKENIZER: 4096, "m.gguf": 32}, "64 in config.json, 32 in m.gguf; correct the wrong one"),
        ({TOKENIZER: 32, "m.gguf": 64}, "correct that of tokenizer_config.json, which"),
    ],
)
def test_lengths_that_files_disagree_about(lengths, said):
    files = replace(SILENT, lengths={"config.json": 64, **lengths})
    found = differences(compared(SAME, files=files)).get("context length")
    assert (found is None) if said is None else said in found


def test_a_server_takes_its_length_from_a_file_that_is_named():
    yarn = replace(SILENT, positions=16)
    found = differences(compared(SAME, files=yarn, lengths=(64, 16)))["context length"]
    assert found.endswith("the server 16; it takes max_position_embeddings of config.json: set that to 64 there")
    short = replace(SILENT, lengths={"config.json": 64, TOKENIZER: 32, "m.gguf": 16})
    found = differences(compared(SAME, files=short, lengths=(64, 32)))["context length"]
    assert found.endswith(
        "it takes tokenizer_config.json (model_max_length), since that is less: correct the one that is wrong"
    )
    found = differences(compared(SAME, files=short, lengths=(64, 16)))["context length"]
    assert found.endswith("so says m.gguf: write that file again with marin-sft gguf")
    window = replace(SILENT, lengths={"config.json": 64, "m.gguf": 16}, llama_cpp=16)
    found = differences(compared(SAME, files=window, lengths=(64, 16)))["context length"]
    assert found == "the model takes 64 tokens, the server 16"


def test_answers_that_end_otherwise_and_other_scores():
    longer = replace(SAME, server_ids=[7, 8, 2, 9], server_finish="length")
    assert "token 4 is missing, and 'w9'" in differences(compared(longer))["answers"]
    other_end = replace(SAME, server_finish="length")
    assert list(differences(compared(other_end))) == ["ends of answers"]
    scores = replace(SAME, logprob_difference=0.02)
    assert list(differences(compared(scores))) == ["log-probabilities"]
    assert not differences(compared(scores, logprob_tolerance=0.03))


def test_the_first_difference_of_two_sequences():
    assert first_difference([1, 2], [1, 2]) is None and first_difference([], []) is None
    assert first_difference([1, 2], [1, 3]) == 1 and first_difference([1], [1, 2]) == 1
