"""The page: one file that holds everything, loads nothing, and in which texts stay texts."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import pytest

from marin_sft.run import command
from marin_sft.run.report.page import embedded, page
from tests.run.report.conftest import HOSTILE


class Elements(HTMLParser):
    """The elements of a page, with the texts of scripts and styles."""

    def __init__(self, text):
        super().__init__()
        self.found, self.texts, self._open = [], [], None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        self._open = tag

    def handle_data(self, data):
        if self._open in ("script", "style"):
            self.texts.append((self._open, data))

    def handle_endtag(self, tag):
        self._open = None


@pytest.fixture(scope="module")
def text(launched):
    output = launched.folder / "report.html"
    assert command.main(["report", "--prefix", launched.prefix, "-o", str(output)]) == 0
    return output.read_text()


def test_it_is_one_file_that_loads_nothing(text):
    elements = Elements(text)
    assert not [attributes for _, attributes in elements.found if {"src", "srcset"} & attributes.keys()]
    assert {tag for tag, _ in elements.found} & {"link", "img", "iframe", "object", "embed", "base"} == set()
    assert len(text.encode()) < 1_000_000


def test_texts_do_not_end_the_element_that_holds_them(text):
    scripts = [body for tag, body in Elements(text).texts if tag == "script"]
    assert len(scripts) == 2, "the contents, and the script"
    assert json.loads(scripts[0])["launches"][0]["description"] == HOSTILE
    assert "<script>document.title" not in text and "<img" not in text


def test_only_its_own_script_and_styles_may_run(text):
    elements = Elements(text)
    policy = next(a["content"] for _, a in elements.found if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none';") and "unsafe" not in policy
    bodies = {tag: body for tag, body in elements.texts}  # the last script is the one that runs
    for tag, name in (("script", "script-src"), ("style", "style-src")):
        digest = base64.b64encode(hashlib.sha256(bodies[tag].encode()).digest()).decode()
        assert re.search(rf"{name} 'sha256-{re.escape(digest)}'", policy)


def test_the_title_is_text():
    assert "<title>&lt;b&gt; {{script}}</title>" in page({"title": "<b> {{script}}"})


def test_embedded_json_reads_back_and_has_no_brackets():
    value = {"a": HOSTILE, "b": ["\u2028", "\ud800", "&amp;"]}
    assert json.loads(embedded(value)) == value and not set("<>&") & set(embedded(value))


def test_json_of_the_contents(launched, capsys):
    capsys.readouterr()
    assert command.main(["report", "--prefix", launched.prefix, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["title"]


def test_a_place_that_cannot_be_written(launched, capsys):
    assert command.main(["report", "--prefix", launched.prefix, "-o", str(launched.folder / "no/r.html")]) == 2
    assert "cannot be written: No such file" in capsys.readouterr().err
