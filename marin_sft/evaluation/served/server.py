"""A server that runs while a block does, on loopback, and the questions to it."""

from __future__ import annotations

import http.client
import json
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from marin_sft.data.files import Json
from marin_sft.errors import ExportError
from marin_sft.evaluation.served.engines import MODEL, Engine
from marin_sft.evaluation.served.questions import Question

_GUARD = Path(__file__).with_name("guard.py")
_LAST_LINES = 15
_ERROR = re.compile(r"\b[A-Za-z.]*(Error|Exception): ")
_LONGEST_LINE = 300
_READY_SECONDS = 10.0
_ASKING_SECONDS = 600.0  # the first answer may be compiled for
_BETWEEN_TRIES = 0.2


@dataclass(frozen=True)
class Answer:
    """What a server made of a question. `finish`: "stop" if it ended by itself. logprobs: of its tokens, as it says."""

    prompt_text: str | None
    prompt_ids: list[int]
    ids: list[int]
    logprobs: list[float]
    text: str
    finish: str


@dataclass(frozen=True)
class Server:
    """log: what it says. is_kept: whether people find that file afterwards."""

    engine: Engine
    port: int
    log: Path
    is_kept: bool

    def version(self) -> str:
        return str(self._get("/version")["version"])

    def context_length(self) -> int:
        return int(self._get("/v1/models")["data"][0]["max_model_len"])

    def chat_template(self) -> str | None:
        """The text of the template with which it renders chats."""
        template = self._get("/tokenizer_info").get("chat_template")
        if isinstance(template, list):  # of names and templates
            template = {named["name"]: named["template"] for named in template}
        return template.get("default") if isinstance(template, dict) else template

    def tokenize(self, text: str) -> list[int]:
        """The ids of `text`, without special tokens around it."""
        asked = {"model": MODEL, "prompt": text, "add_special_tokens": False}
        return list(self._post("/tokenize", asked)["tokens"])

    def answer(self, question: Question, max_new_tokens: int) -> Answer:
        """Greedy: what generation_config.json says about sampling does not count."""
        asked: Json = {
            "model": MODEL,
            "messages": question.messages,
            "chat_template_kwargs": question.kwargs,
            "max_tokens": max_new_tokens,
            "temperature": 0,
            "repetition_penalty": 1.0,
            "logprobs": True,
            "top_logprobs": 0,
            "return_tokens_as_token_ids": True,
            "return_token_ids": True,
            "return_prompt_text": True,
        }
        if question.tools:
            asked |= {"tools": question.tools, "tool_choice": "none"}
        said = self._post("/v1/chat/completions", asked)
        (choice,) = said["choices"]
        return Answer(
            said.get("prompt_text"),
            said["prompt_token_ids"],
            choice["token_ids"],
            [token["logprob"] for token in choice["logprobs"]["content"]],
            choice["message"]["content"] or "",
            choice["finish_reason"],
        )

    def _get(self, path: str) -> Json:
        return self._ask("GET", path, None)

    def _post(self, path: str, asked: Json) -> Json:
        return self._ask("POST", path, json.dumps(asked))

    def _ask(self, method: str, path: str, body: str | None) -> Json:
        """Raises ExportError: it refuses, or does not answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=_ASKING_SECONDS)
        try:
            connection.request(method, path, body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            status, content = response.status, response.read()
        except (OSError, http.client.HTTPException) as error:
            raise self.refused(f"does not answer {path}: {error}") from error
        finally:
            connection.close()
        if status != 200:
            raise self.refused(f"refuses {path} with status {status}: {content.decode(errors='replace')[:500]}")
        found: Json = json.loads(content)
        return found

    def refused(self, what: str) -> ExportError:
        """An error with the last lines of its log, and what to do."""
        text = self.log.read_text(errors="replace")
        lines = [_shortened(line) for line in text.splitlines() if line.strip()]
        # Of servers of several processes, the last lines are about the end of the others.
        errors = [line for line in lines[:-_LAST_LINES] if _ERROR.search(line) and "WARNING" not in line]
        shown = [*errors[:1], *(["..."] if errors else []), *lines[-_LAST_LINES:]]
        do = self.engine.advice(text) or "the reason stands in its log"
        log = f"its log, {self.log}" if self.is_kept else "its log (--output DIR keeps all of it)"
        return ExportError("\n  ".join([f"{self.engine.name} {what}; {do}. The end of {log}:", *shown]))


def _shortened(line: str) -> str:
    """Some servers list all that they know."""
    return line if len(line) <= _LONGEST_LINE else f"{line[:_LONGEST_LINE]}..."


@contextmanager
def running(
    engine: Engine, command: Callable[[int], list[str]], log: Path, is_kept: bool, start_seconds: float
) -> Iterator[Server]:
    """The server that `command` starts on a port, ready for questions. It ends with the block, and when this process
    ends or is killed.

    Raises:
        ExportError: it does not start.
    """
    port = _free_port()
    with tempfile.TemporaryDirectory() as scratch, log.open("wb") as written:
        environment = {**engine.environment(), "TMPDIR": scratch}
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(_GUARD), *command(port)],
            stdin=subprocess.PIPE,
            stdout=written,
            stderr=subprocess.STDOUT,
            cwd=scratch,  # nothing is imported from here
            env=environment,
            start_new_session=True,  # Ctrl-C reaches it only through this process
        )
        try:
            server = Server(engine, port, log, is_kept)
            _wait(server, process, start_seconds)
            yield server
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait()


def _wait(server: Server, process: subprocess.Popen[bytes], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not _listens(server.port):
        code = process.poll()
        if code is not None:
            raise server.refused(f"did not start: it ended with exit code {code}")
        if time.monotonic() > deadline:
            raise server.refused(f"did not start within {seconds:g} s (start_seconds)")
        time.sleep(_BETWEEN_TRIES)


def _listens(port: int) -> bool:
    """Whether the server at `port` lists its models, which it does once it has loaded them."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_READY_SECONDS)
    try:
        connection.request("GET", "/v1/models")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
