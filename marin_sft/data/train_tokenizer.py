"""The step that trains a small tokenizer on chat rows."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from marin_sft import progress
from marin_sft.data.messages.examples import (
    BadRow,
    Dialogue,
    Example,
    Preference,
    Rated,
    Segments,
    Text,
    TextPreference,
)
from marin_sft.data.messages.reading import examples_of
from marin_sft.data.rows.dropped import MEND, Dropped, check_dropped, write_dropped
from marin_sft.data.rows.row_files import find_files, read_rows
from marin_sft.data.step_configs import TrainTokenizerConfig
from marin_sft.errors import DataError
from marin_sft.paths import file_system

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

END_OF_TEXT, START_OF_TURN, END_OF_TURN = "<|endoftext|>", "<|im_start|>", "<|im_end|>"

CHATML_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message['role'] + '\\n' -}}"
    "{%- if message['role'] == 'assistant' -%}"
    "{%- generation -%}{{- message['content'] + '<|im_end|>' -}}{%- endgeneration -%}"
    "{%- else -%}"
    "{{- message['content'] + '<|im_end|>' -}}"
    "{%- endif -%}"
    "{{- '\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)
"""ChatML. What is trained: the content of assistant turns and the `<|im_end|>` that ends them."""


def train_tokenizer(config: TrainTokenizerConfig) -> None:
    """Write a directory that `transformers.AutoTokenizer` loads. The same rows give the same bytes.

    Its chat template is `CHATML_TEMPLATE` (or that of `config.format`), eos is `<|im_end|>`, pad `<|endoftext|>`.

    Raises:
        DataError: no file, no usable row, or more than `max_dropped` of the rows unusable.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    dropped = Dropped()
    counts: Counter[str] = Counter()
    model = Tokenizer(models.BPE())
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = decoders.ByteLevel()
    model.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab_size,
        special_tokens=[END_OF_TEXT, START_OF_TURN, END_OF_TURN],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    model.train_from_iterator(_contents(config, counts, dropped), trainer)
    rows = counts["rows"]
    try:
        check_dropped(rows, dropped, config.max_dropped, "train_paths", config.output_path, MEND, format=config.format)
    except DataError:
        write_dropped(config.output_path, [dropped])
        raise
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=model,
        eos_token=END_OF_TURN,
        pad_token=END_OF_TEXT,
        additional_special_tokens=[START_OF_TURN],
        model_input_names=["input_ids", "attention_mask"],  # not token_type_ids, which `generate` refuses
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = config.format.chat_template or CHATML_TEMPLATE
    _save(tokenizer, config.output_path)
    progress.report(rows, rows, "rows", vocab_size=len(tokenizer))


def _contents(config: TrainTokenizerConfig, counts: Counter[str], dropped: Dropped) -> Iterator[str]:
    """All texts in the rows. Counts the rows in `counts`, and collects the bad ones in `dropped`."""
    for file in find_files(config.train_paths):
        for source in read_rows(file):
            counts["rows"] += 1
            try:
                if isinstance(source.row, BadRow):
                    raise source.row
                for example in examples_of(source.row, config.format):
                    yield from _texts(example)
            except BadRow as bad:
                dropped.add(source, bad)
            if counts["rows"] % 1000 == 0:
                progress.report(counts["rows"], unit="rows")


def _texts(example: Example) -> list[str]:
    match example:
        case Dialogue():
            messages = example.messages
        case Rated():
            messages = example.dialogue.messages
        case Preference():
            messages = [*example.prompt, *example.chosen, *example.rejected]
        case Segments():
            return [text for text, _ in example.pieces]
        case Text():
            return [example.prompt, example.text]
        case TextPreference():
            return [example.prompt, example.chosen, example.rejected]
        case _:
            raise BadRow("no_text", f"the row holds {type(example).__name__}; expected text to train a tokenizer on")
    return [text for message in messages for text in (message["content"], message.get("reasoning_content")) if text]


def _save(tokenizer: PreTrainedTokenizerFast, output_path: str) -> None:
    """Saves locally first, as save_pretrained only writes to local directories."""
    with tempfile.TemporaryDirectory() as local:
        tokenizer.save_pretrained(local)
        fs, root = file_system(output_path)
        fs.makedirs(root, exist_ok=True)
        fs.put(local.rstrip("/") + "/", root.rstrip("/") + "/", recursive=True)
