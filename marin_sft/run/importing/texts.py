"""Prompts, chat templates and functions that an experiment file defines itself.

A definition is Python source; its key is what it defines.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping

from marin_sft.run.python_source import text

# The prompts of Stanford's Alpaca: torchtune makes a turn of a chat of them, axolotl the whole text.
_WITH_INPUT = '''WITH_INPUT = """\\
Below is an instruction that describes a task, paired with an input that provides \\
further context. Write a response that appropriately completes the request.

### Instruction:
{instruction}

### Input:
{input}

### Response:
"""'''

_WITHOUT_INPUT = '''WITHOUT_INPUT = """\\
Below is an instruction that describes a task. Write a response that appropriately \\
completes the request.

### Instruction:
{instruction}

### Response:
"""'''

_ALPACA = '''def alpaca(row: dict) -> list[dict]:
    """The row's instruction in the prompt of Stanford's Alpaca, and its output."""
    prompt = WITH_INPUT if row.get("input") else WITHOUT_INPUT
    return [
        {"role": "user", "content": prompt.format(**row)},
        {"role": "assistant", "content": row["output"]},
    ]'''

_ALPACA_TEMPLATE = '''# The prompt of Stanford's Alpaca as a chat template, so that a server says it too.
ALPACA = """\\
{{ bos_token }}{% for message in messages %}{% if message.role == "assistant" %}\\
{{ message.content }}{{ eos_token }}{% elif message.input %}\\
Below is an instruction that describes a task, paired with an input that provides \\
further context. Write a response that appropriately completes the request.

### Instruction:
{{ message.content }}

### Input:
{{ message.input }}

### Response:
{% else %}\\
Below is an instruction that describes a task. Write a response that appropriately \\
completes the request.

### Instruction:
{{ message.content }}

### Response:
{% endif %}{% endfor %}"""'''

_INSTRUCTION = """def instruction(row: dict) -> list[dict]:
    asked = {"role": "user", "content": row["instruction"], "input": row.get("input")}
    return [asked, {"role": "assistant", "content": row["output"]}]"""

_PLAIN = '''# Without a chat template: the prompt, the answer, and the token that ends a text.
PLAIN = """\\
{{ bos_token }}{% for message in messages %}{{ message.content }}\\
{% if message.role == "assistant" %}{{ eos_token }}{% endif %}{% endfor %}"""'''

_CHATML = '''CHATML = """\\
{% for message in messages %}<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""'''

_LLAMA3 = '''LLAMA3 = """\\
{{ bos_token }}{% for message in messages %}\\
<|start_header_id|>{{ message.role }}<|end_header_id|>

{{ message.content | trim }}<|eot_id|>{% endfor %}\\
{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>

{% endif %}"""'''

# As torchtune: an end of text after the last turn.
_LLAMA3_ENDED = '''LLAMA3_ENDED = """\\
{{ bos_token }}{% for message in messages %}\\
<|start_header_id|>{{ message.role }}<|end_header_id|>

{{ message.content | trim }}<|eot_id|>\\
{% if loop.last and not add_generation_prompt %}<|end_of_text|>{% endif %}{% endfor %}\\
{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>

{% endif %}"""'''

DEFINITIONS = {
    "WITH_INPUT": _WITH_INPUT,
    "WITHOUT_INPUT": _WITHOUT_INPUT,
    "PLAIN": _PLAIN,
    "CHATML": _CHATML,
    "LLAMA3": _LLAMA3,
    "LLAMA3_ENDED": _LLAMA3_ENDED,
    "ALPACA": _ALPACA_TEMPLATE,
    "alpaca": _ALPACA,
    "instruction": _INSTRUCTION,
}
NAMED_TEMPLATES = {"chatml": "CHATML", "llama3": "LLAMA3"}
"""Chat templates that have this name in the tools."""


def needed(names: Iterable[str], definitions: Mapping[str, str]) -> list[str]:
    """Of `names`, those that are defined, with those that these name, in the order of `definitions`."""
    found, open_names = set[str](), set(names) & definitions.keys()
    while open_names:
        found |= open_names
        nodes = (node for name in open_names for node in ast.walk(ast.parse(definitions[name])))
        named = {node.id for node in nodes if isinstance(node, ast.Name)}
        open_names = (named & definitions.keys()) - found
    return [name for name in definitions if name in found]


def question_and_answer(name: str, question: str, answer: str, system: str | None) -> str:
    """A function from a row's columns to messages."""
    ask = f'{{"role": "user", "content": row[{text(question)}]}}'
    say = f'{{"role": "assistant", "content": row[{text(answer)}]}}'
    head = f"def {name}(row: dict) -> list[dict]:\n"
    if system is None:
        return f"{head}    return [\n        {ask},\n        {say},\n    ]"
    return (
        f"{head}    system = row.get({text(system)})\n"
        f'    first = [{{"role": "system", "content": system}}] if system else []\n'
        f"    return [\n        *first,\n        {ask},\n        {say},\n    ]"
    )


def constant(name: str, value: str) -> str:
    """A constant with a text, over several lines where that can be."""
    lines = "\n" in value and not any(part in value for part in ("\\", '"""', "\r")) and not value.endswith('"')
    return f'{name} = """\\\n{value}"""' if lines else f"{name} = {text(value)}"


def prompted(
    name: str,
    *,
    columns: Mapping[str, str | None],
    answer: str,
    with_input: str,
    without_input: str,
    system: tuple[str, str | None, str],
) -> str:
    """A function from a row to a prompt and an answer. system: its prompt, its column, and the text without one."""
    says = f"row[{text(columns['instruction'] or '')}]"
    more = f'row.get({text(columns["input"])}) or ""' if columns["input"] else '""'
    system_prompt, system_column, always = system
    lines = [f"def {name}(row: dict) -> list[dict]:", f'    words = {{"instruction": {says}, "input": {more}}}']
    if with_input == without_input:
        lines.append(f"    prompt = {text(with_input)}.format(**words)")
    else:
        lines += [f"    with_input = {text(with_input)}", f"    without_input = {text(without_input)}"]
        lines.append('    prompt = (with_input if words["input"] else without_input).format(**words)')
    if system_prompt and (system_column or always):
        said = f"row.get({text(system_column)})" if system_column else text(always)
        lines += [f"    system = {said}", "    if system:"]
        lines.append(f"        prompt = {text(system_prompt)}.format(system=system) + prompt")
    lines += ["    return [", '        {"role": "user", "content": prompt},']
    return "\n".join([*lines, f'        {{"role": "assistant", "content": row[{text(answer)}]}},', "    ]"])
