"""The page: one HTML file with its styles, scripts and contents, which loads nothing and runs nothing else."""

from __future__ import annotations

import base64
import functools
import hashlib
import html
import json
from importlib import resources

from marin_sft.execution.documents import JsonObject

STYLES = ("uplot.min.css", "style.css")
SECTIONS = (
    "uplot.min.js",
    "dagre.min.js",
    "elements.js",
    "head.js",
    "graph.js",
    "timeline.js",
    "curves.js",
    "datasets.js",
    "lints.js",
    "evaluations.js",
    "sweeps.js",
    "exports.js",
    "report.js",
)
_TEMPLATE = "page.html"


def page(contents: JsonObject) -> str:
    """The report of these `contents`. Texts in them reach the page only as text."""
    return _filled(str(contents["title"]), (*SECTIONS, "file.js"), embedded(contents), connects=False)


@functools.cache
def live_page() -> str:
    """A page that asks the server, which it came from, for its contents."""
    return _filled("marin-sft", (*SECTIONS, "overview.js", "live.js"), "null", connects=True)


def embedded(value: object) -> str:
    """JSON for a script element: no `<`, so that no text in it can end the element."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


@functools.cache
def asset(name: str) -> str:
    return resources.files(__package__).joinpath("assets", name).read_text(encoding="utf-8")


def _filled(title: str, scripts: tuple[str, ...], data: str, connects: bool) -> str:
    style = "\n".join(map(asset, STYLES))
    script = "\n".join(map(asset, scripts))
    policy = f"default-src 'none'; script-src {_digest(script)}; style-src {_digest(style)}; img-src data:"
    own = "; connect-src 'self'" if connects else ""
    parts = {
        "policy": f"{policy}{own}; base-uri 'none'; form-action 'none'",
        "title": html.escape(title),
        "style": style,
        "data": data,
        "script": script,
    }
    before, *pieces = asset(_TEMPLATE).split("{{")
    text = [before]
    for piece in pieces:  # at once, so that no part is searched for the names of others
        name, _, after = piece.partition("}}")
        text += [parts[name], after]
    return "".join(text)


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
