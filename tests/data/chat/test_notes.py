"""What a template leaves out, and what people wrote that becomes something else."""

import copy
import json

import pytest

from marin_sft.data.chat.encode import encode
from marin_sft.data.chat.renderer import encode_chat
from marin_sft.data.formats import ChatLmDatasetFormat
from marin_sft.data.messages.examples import BadRow, Dialogue, Preference, Segments, Text
from tests.data.chat.test_renderer import CHATML, call, messages_of, turn, without_tags

# As Llama 3's and many others: what stands in other keys than the role and the content is left out.
PLAIN = without_tags(CHATML)
# As R1's: what precedes the answer is left out of every turn.
NO_REASONING = CHATML.replace(
    "m['content'] + '<|im_end|>' }}{% endgen",
    "m['content'].split('</think>')[-1] + '<|im_end|>' }}{% endgen",
)
CALLS = CHATML.replace(
    "{{ m['content'] + '<|im_end|>' }}{% endgen",
    "{{ m['content'] }}{% for c in m.tool_calls or [] %}<call>{{ c.function.name }}{{ c.function.arguments | tojson }}"
    "{% endfor %}{{ '<|im_end|>' }}{% endgen",
)
FIRST_CALL = CALLS.replace("m.tool_calls or []", "(m.tool_calls or [])[:1]")
NAMES = CALLS.replace("{{ c.function.arguments | tojson }}", "")
NO_TOOLS = CHATML.replace("{% for m in messages %}", "{% for m in messages if m['role'] != 'tool' %}")
# As OLMo 3's.
FUNCTIONS = CHATML.replace(
    "{{ m['content'] + '<|im_end|>' }}",
    "{{ m['content'] }}{% if m.get('functions') %}{{ '<functions>' + m['functions'] }}{% endif %}"
    "{% if m.get('function_calls') is not none %}{{ '<calls>' + m['function_calls'] }}{% endif %}{{ '<|im_end|>' }}",
)
WHOLE = CHATML.replace("{{ m['content'] + '<|im_end|>' }}{% endgen", "{{ m | tojson + '<|im_end|>' }}{% endgen")

ASKED = turn("user", "weather in Paris?")
CALLED = turn("assistant", "", tool_calls=[call("weather", city="Paris")])
ANSWERED = [ASKED, CALLED, turn("tool", "sunny"), turn("assistant", "It is sunny.")]
TWICE = [ASKED, turn("assistant", "Both.", tool_calls=[call("weather", city="Paris"), call("time", zone="CET")])]
THOUGHT = [ASKED, turn("assistant", "<think>\nSunny there.\n</think>\n\nsun")]
BESIDE = [ASKED, turn("assistant", "sun", reasoning_content="Sunny there.")]


def fields(**more):
    return {"allow_not_rendered": tuple(more.pop("allow", ())), **more}


@pytest.mark.parametrize(
    "template, messages, kind, which",
    [
        (PLAIN, [ASKED, CALLED], "calls", 1),
        (CHATML, [ASKED, CALLED], "calls", 1),
        (CHATML, ANSWERED, "calls", 1),
        (FIRST_CALL, TWICE, "calls", 1),
        (NAMES, [ASKED, CALLED], "calls", 1),
        (CHATML, [ASKED, turn("assistant", "", function_calls="weather('Paris')")], "calls", 1),
        (CHATML, BESIDE, "reasoning", 1),
        (NO_REASONING, THOUGHT, "reasoning", 1),
        (NO_TOOLS, ANSWERED[:1] + ANSWERED[2:], "content", 1),
    ],
)
def test_what_no_token_shows_drops_the_row_or_is_allowed(tokenizer, template, messages, kind, which):
    for used in (template, without_tags(template)):
        with pytest.raises(BadRow, match=f"{kind}_not_rendered: message {which} .*allow_not_rendered=..{kind}',"):
            encode_chat(tokenizer, messages, ChatLmDatasetFormat(chat_template=used))
        row = encode(tokenizer, Dialogue(messages), ChatLmDatasetFormat(chat_template=used, **fields(allow=[kind])))
        assert row.input_ids.tolist() == tokenizer.apply_chat_template(messages, chat_template=used)
        assert "function_calls" in messages[1] or row.noted.counts == {f"{kind}_not_rendered": 1}


@pytest.mark.parametrize(
    "template, messages",
    [
        (CALLS, ANSWERED),
        (CALLS, TWICE),
        (CALLS, [ASKED, turn("assistant", "", tool_calls=[call("now")])]),
        (CALLS, [ASKED, turn("assistant", "", tool_calls=[call("add", x=1, y=[2.5, None])])]),
        (CALLS.replace("c.function.name", "c.function.name | upper"), ANSWERED),
        (CHATML, THOUGHT),
        (CHATML, messages_of(["", "a", " ", ""])),
        # The same thought under two keys.
        (CALLS.replace("{{ m['content'] }}", "{{ m.reasoning or '' }}{{ m['content'] }}"),
         [ASKED, turn("assistant", "sun", reasoning_content="Sunny.", reasoning="Sunny.")]),
    ],
)  # fmt: skip
def test_what_is_rendered_is_kept(tokenizer, template, messages):
    for used in (template, without_tags(template)):
        row = encode(tokenizer, Dialogue(messages), ChatLmDatasetFormat(chat_template=used))
        assert row.input_ids.tolist() == tokenizer.apply_chat_template(messages, chat_template=used)
        assert not any("not_rendered" in name for name in row.noted.counts)


def test_a_template_that_looks_at_the_name_of_a_call_is_seen_through(tokenizer):
    """Marks change what it renders, so that each part is tried alone."""
    template = CALLS.replace("c.function.name", "('W' if c.function.name == 'weather' else c.function.name)")
    row = encode(tokenizer, Dialogue(ANSWERED), ChatLmDatasetFormat(chat_template=template))
    assert row.input_ids.tolist() == tokenizer.apply_chat_template(ANSWERED, chat_template=template)
    with pytest.raises(BadRow, match="calls_not_rendered"):
        only_time = template.replace("or []", "or [] if c.function.name == 'time'")
        encode(tokenizer, Dialogue(ANSWERED), ChatLmDatasetFormat(chat_template=only_time))


def test_reasoning_that_a_template_leaves_out_of_earlier_turns_is_counted(tokenizer):
    from tests.data.chat.test_renderer import THINKING

    old, new = THOUGHT[1], turn("assistant", "<think>\nNew.\n</think>\n\nrain")
    for messages in ([ASKED, old, ASKED, new], [ASKED, old, ASKED]):
        row = encode(tokenizer, Dialogue(messages), ChatLmDatasetFormat(chat_template=THINKING))
        assert row.noted.counts == {"earlier_reasoning_not_rendered": 1}
    pair = Preference([ASKED, old, ASKED], [new], [turn("assistant", "snow")])
    assert encode(tokenizer, pair, ChatLmDatasetFormat(chat_template=THINKING)).noted.counts == {
        "earlier_reasoning_not_rendered": 2
    }


def test_keys_that_the_template_reads_reach_it_and_others_are_told(tokenizer):
    messages = [
        turn("system", "Use tools.", functions='[{"name": "weather"}]'),
        turn("user", "weather in Paris?", country="FR"),
        turn("assistant", "", function_calls='weather(city="Paris")'),
        turn("environment", "sunny"),
        turn("assistant", "It is sunny.", score=3),
    ]
    for used in (FUNCTIONS, without_tags(FUNCTIONS)):
        row = encode(tokenizer, Dialogue(messages), ChatLmDatasetFormat(chat_template=used))
        out = tokenizer.apply_chat_template(
            messages, chat_template=FUNCTIONS, return_dict=True, return_assistant_tokens_mask=True
        )
        assert (row.input_ids.tolist(), row.mask.tolist()) == (out["input_ids"], out["assistant_masks"])
        assert row.noted.unread_keys == {"messages.country", "messages.score"}
    # One that writes whole messages reads all their keys.
    row = encode(tokenizer, Dialogue(messages), ChatLmDatasetFormat(chat_template=WHOLE))
    assert row.input_ids.tolist() == tokenizer.apply_chat_template(messages, chat_template=WHOLE)
    assert "messages.score" not in row.noted.unread_keys


def test_tools_and_arguments_that_no_template_looks_up_are_told(tokenizer):
    tools = [{"type": "function", "function": {"name": "weather"}}]
    dialogue = Dialogue(messages_of(["a", "b"]), tools, {"mood": "calm", "place": "here"})
    row = encode(tokenizer, dialogue, ChatLmDatasetFormat(chat_template="{{ mood }}" + CHATML))
    assert row.noted.unread_keys == {"tools", "chat_template_kwargs.place"}


END, START = "<|im_end|>", "<|im_start|>"
WRITTEN = [turn("user", f"What does {END}\n{START} do?"), turn("assistant", f"{END} ends a turn.")]


def test_special_tokens_that_people_wrote_are_kept_and_counted(tokenizer):
    row = encode(tokenizer, Dialogue(WRITTEN), ChatLmDatasetFormat())
    assert row.input_ids.tolist() == tokenizer.apply_chat_template(WRITTEN)
    assert row.noted.counts == {"special_tokens_in_text": 3}
    assert not encode(tokenizer, Dialogue(messages_of(["<|im_", "end|>"])), ChatLmDatasetFormat()).noted.counts
    called = [ASKED, turn("assistant", "", tool_calls=[call("say", text=END)])]
    assert encode(tokenizer, Dialogue(called), ChatLmDatasetFormat(chat_template=CALLS)).noted.counts == {
        "special_tokens_in_text": 1
    }


@pytest.mark.parametrize("tags", [True, False])
def test_escaped_special_tokens_are_ordinary_text(tokenizer, tags):
    template = CHATML if tags else without_tags(CHATML)
    kept = encode_chat(tokenizer, WRITTEN, ChatLmDatasetFormat(chat_template=template))
    format = ChatLmDatasetFormat(chat_template=template, special_tokens_in_text="escape")
    row = encode_chat(tokenizer, WRITTEN, format)
    assert tokenizer.decode(row.input_ids) == tokenizer.decode(kept.input_ids)
    assert tokenizer.decode(row.input_ids[row.mask == 1]) == tokenizer.decode(kept.input_ids[kept.mask == 1])
    for token, written in ((END, 2), (START, 1)):
        id = tokenizer.convert_tokens_to_ids(token)
        assert row.input_ids.tolist().count(id) == kept.input_ids.tolist().count(id) - written
    # As the tokenizer itself splits them, where it is told to.
    ordinary = tokenizer(END, split_special_tokens=True, add_special_tokens=False)["input_ids"]
    assert len(ordinary) > 1 and str(ordinary)[1:-1] in str(row.input_ids.tolist())
    # A dialogue without any is as ever.
    plain = messages_of(["hi", "ho"])
    assert encode_chat(tokenizer, plain, format).input_ids.tolist() == tokenizer.apply_chat_template(plain)


def test_escaped_in_plain_text_and_where_a_token_swallows_spaces(tokenizer):
    from transformers import AddedToken

    swallowing = copy.deepcopy(tokenizer)
    swallowing.add_tokens([AddedToken("<sep>", special=True, rstrip=True, lstrip=True)])
    format = ChatLmDatasetFormat(special_tokens_in_text="escape")
    for text in (f"a  <sep>  b{END} c", f"x{END}"):
        for example in (Text("", text), Text("a ", text), Segments([(text, True)])):
            row = encode(swallowing, example, format)
            whole = (example.prompt if isinstance(example, Text) else "") + text
            ended = whole + (END if isinstance(example, Text) else "")
            assert swallowing.decode(row.input_ids) == ended
            assert row.noted.counts["special_tokens_in_text"] == text.count("<sep>") + text.count(END)


@pytest.mark.parametrize("policy", ["drop", "raise"])
def test_rows_with_special_tokens_can_be_refused(tokenizer, policy):
    format = ChatLmDatasetFormat(special_tokens_in_text=policy)
    for example in (
        Dialogue(WRITTEN),
        Text("", f"a{START}"),
        Preference(WRITTEN[:1], WRITTEN[1:], [turn("assistant", "x")]),
    ):
        with pytest.raises(BadRow, match="special_tokens_in_text: its text has . special tokens, the first is '<.im_"):
            encode(tokenizer, example, format)
    assert encode(tokenizer, Dialogue(messages_of(["hi", "ho"])), format).mask.any()


def test_a_tokenizer_that_cannot_write_a_token_as_text_drops_the_row(tokenizer):
    """One that puts a space before every word gives another text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = [chr(i) for i in range(33, 127)] + ["\u2581"]
    backend = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    backend.decoder = decoders.Metaspace(prepend_scheme="never")
    spaced = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=END, additional_special_tokens=[START])
    format = ChatLmDatasetFormat(chat_template=CHATML, special_tokens_in_text="escape")
    with pytest.raises(BadRow, match="special_tokens_in_text: the tokenizer has no ordinary tokens that give"):
        encode_chat(spaced, WRITTEN, format)


def test_notes_are_the_same_for_the_row_that_transform_writes(tokenizer):
    from marin_sft.data.messages.canonical import canonical_row
    from marin_sft.data.messages.reading import example_of

    row = {"messages": [turn("user", "a", country="FR"), turn("assistant", f"b{END}", score=1)]}
    format = ChatLmDatasetFormat()
    read = example_of(row, format)
    again = example_of(json.loads(json.dumps(canonical_row(read))), format)
    assert encode(tokenizer, read, format).noted == encode(tokenizer, again, format).noted
    assert encode(tokenizer, read, format).noted.unread_keys == {"messages.country", "messages.score"}
