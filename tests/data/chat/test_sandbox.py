import resource
import subprocess
import sys

import pytest

from marin_sft.data.chat.renderer import encode_chat
from marin_sft.data.chat.sandbox import TemplateLimit, TemplateSandbox
from marin_sft.data.chat.templates import ChatTemplate
from marin_sft.data.formats import ChatLmDatasetFormat
from marin_sft.data.messages.examples import BadRow

TOO_MUCH = {
    "a loop in a loop": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "a macro that calls itself twice": "{% macro f(n) %}{{ f(n - 1) ~ f(n - 1) if n }}{% endmacro %}{{ f(60) }}",
    "a string times a number": "{{ 'x' * 1000000000 }}",
    "a number times a list": "{{ 2000000000 * [1] }}",
    "a power": "{{ 9 ** (9 ** 9) > 1 }}",
    "squares of squares": "{% set n = namespace(x=9) %}{% for i in range(60) %}{% set n.x = n.x * n.x %}{% endfor %}",
    "sums of sums": "{% set n = namespace(x='ab') %}{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}",
    "joined to itself": "{% set n = namespace(x='ab') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
    "set blocks": "{% set n = namespace(x='ab') %}{% for i in range(60) %}{% set b %}{{ n.x }}{{ n.x }}{% endset %}"
    "{% set n.x = b %}{% endfor %}",
    "a join": "{{ (['a' * 1000] * 3000000) | join }}",
    "a method that joins": "{{ ('b' * 100000).join(['a'] * 100000) }}",
    "a filter that centers": "{{ 'x' | center(3000000000) }}",
    "a method that centers": "{{ 'x'.center(3000000000) }}",
    "zeros": "{{ 'x'.zfill(3000000000) }}",
    "a method that replaces": "{{ ('a' * 100000).replace('a', 'b' * 20000) }}",
    "a filter that replaces": "{{ ('a' * 100000) | replace('a', 'b' * 20000) }}",
    "a filter by its name": "{{ [('a' * 100000)] | map('replace', 'a', 'b' * 20000) | list }}",
    "indented lines": "{{ ('\n' * 100000) | indent(20000) }}",
    "a wide format": "{{ '%1000000000d' % 1 }}",
    "a wide format method": "{{ '{:1000000000}'.format(1) }}",
    "a format of a computed width": "{{ '{:{}}'.format(1, 1000000000) }}",
    "output": "{% set x = 'x' * 60000000 %}{% for i in range(99999) %}{{ x }}{% endfor %}",
}


@pytest.mark.parametrize("template", TOO_MUCH.values(), ids=TOO_MUCH)
def test_what_takes_too_much_is_refused_before_it_is_done(template):
    with pytest.raises(TemplateLimit):
        ChatTemplate(template).render({})


def test_what_is_refused_takes_little_memory_and_time():
    """At most 1 GiB more than a process has with all its modules, and a minute of work with their import."""
    program = (
        "import resource; from tests.data.chat.test_sandbox import TOO_MUCH, refused;"
        "refused(TOO_MUCH['a string times a number']);"  # imports what takes memory
        "limit = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss + 2**20;"
        "[refused(text) for text in TOO_MUCH.values()];"
        "assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < limit"
    )

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_CPU, (60, 60))

    subprocess.run([sys.executable, "-c", program], check=True, preexec_fn=limited)


def refused(template):
    try:
        ChatTemplate(template).render({})
    except TemplateLimit:
        return
    raise AssertionError(template)


def test_a_row_that_takes_too_much_is_dropped(tokenizer):
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    for rounds, reason in ((10, None), (10**6, "template_limit")):
        template = (
            "{% for i in range([rounds, 99999] | min) %}{% for j in range([rounds, 99999] | min) %}{% endfor %}"
            "{% endfor %}" + tokenizer.chat_template
        )
        format = ChatLmDatasetFormat(chat_template=template, chat_template_kwargs={"rounds": rounds})
        if reason is None:
            assert len(encode_chat(tokenizer, messages, format).input_ids)
            continue
        with pytest.raises(BadRow, match=f"{reason}: rendering took more than 1,000,000 rounds"):
            encode_chat(tokenizer, messages, format)


def test_what_templates_do_is_what_it_is_in_the_usual_sandbox():
    """Loops, concatenations and filters go through the limits, and give what Jinja gives."""
    from transformers.utils.chat_template_utils import _compile_jinja_template

    template = (
        "{% for m in messages if m.content %}{{ loop.index }}/{{ loop.length }}{{ loop.last }}"
        "{{ m.role ~ ':' ~ m.content + '!' * 3 }}{% else %}none{% endfor %}"
        "{% for key, value in {'b': 1, 'a': [1, 2]} | dictsort %}{{ key }}={{ value | tojson }}{% endfor %}"
        "{% for group in messages | groupby('role') %}{{ group.grouper }}{{ group.list | length }}{% endfor %}"
        "{% for x in nothing %}{% else %}empty{% endfor %}{{ 7 // 2 + 2 ** 3 - 5 % 3 }}{{ '%s-%02d' % ('a', 3) }}"
        "{{ messages | map(attribute='content') | join(', ') }}{{ '{:>4}|{}'.format(1, 'x') }}{{ [1] + [2] }}"
        "{% macro shout(x, n=2) %}{{ x | upper * n }}{% endmacro %}{{ shout('a') }}{{ shout(x='b', n=1) }}"
        "{% for x in range(9) %}{% if x == 2 %}{% continue %}{% endif %}{{ x }}{% if x > 4 %}{% break %}{% endif %}"
        "{% endfor %}"
        "{{ ' a\nb ' | trim | indent(2) }}{{ 'a,b'.split(',') | last }}{{ 'aXb'.replace('X', '--') }}"
    )
    messages = [{"role": role, "content": text} for role, text in (("user", "a"), ("assistant", ""), ("user", "c"))]
    sandbox = TemplateSandbox()
    for given in (messages, []):
        expected = _compile_jinja_template(template).render(messages=given)
        assert sandbox.from_string(template).render(messages=given) == expected
    with pytest.raises(TypeError, match="'NoneType' object is not iterable"):
        sandbox.from_string("{% for x in none %}{% endfor %}").render()


@pytest.mark.parametrize("template", ["{{ [1, 2, 3] | random }}", "{{ lipsum(1) }}", "{{ strftime_now('%Y') }}"])
def test_nothing_gives_another_text_at_another_time(template):
    with pytest.raises(Exception, match="No filter named 'random'|is undefined"):
        ChatTemplate(template).render({})


def test_limits_are_those_of_one_rendering():
    template = ChatTemplate("{% for i in range(90000) %}{% endfor %}{{ 'x' * 60000000 }}")
    assert all(len(template.render({})) == 60_000_000 for _ in range(20))
