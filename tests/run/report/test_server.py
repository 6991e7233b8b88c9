"""The live pages: they read only, ask the store no more than `status`, and answer nobody without the printed link."""

import http.client
import json
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import quote, urlsplit

import pytest

from marin_sft.execution.catalog import read_catalog
from marin_sft.execution.executor import Executor, ExecutorFlags, ExecutorStep
from marin_sft.execution.step import unversioned
from marin_sft.execution.store import Store
from marin_sft.execution.stores import open_store
from marin_sft.run import status
from marin_sft.run.report.server import Server
from tests.run.report.conftest import HOSTILE
from tests.run.report.test_contents import WaitConfig, wait


class CountingStore:
    """A store that counts the calls of another one, by name. read_paths: what `read` was asked for."""

    def __init__(self, store: Store) -> None:
        self._store, self.calls, self.read_paths = store, list[str](), list[str]()

    def __getattr__(self, name):
        found = getattr(self._store, name)
        if not callable(found) or name == "path":
            return found

        def call(*arguments, **named):
            self.calls.append(name)
            self.read_paths += arguments if name == "read" else []
            return found(*arguments, **named)

        return call


@pytest.fixture
def serving():
    """Starts servers of stores; `get` asks one, as a browser that opened its link does."""
    servers = []

    def start(store):
        server = Server(store, 0)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
        servers.append(server)

        def get(path, **headers):
            cookie = {"Cookie": f"marin_sft_ui_{server.server_port}={server.token}"}
            connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
            connection.request("GET", path, headers={**cookie, **headers})
            answer = connection.getresponse()
            body = answer.read().decode()
            connection.close()
            is_json = answer.getheader("Content-Type") == "application/json"
            return SimpleNamespace(
                status=answer.status, headers=answer.headers, body=json.loads(body) if is_json else body
            )

        return SimpleNamespace(server=server, get=get)

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_the_overview_and_a_launch(launched, serving):
    get = serving(launched.store).get
    overview = get("/api/overview").body
    assert [launch["script"] for launch in overview["launches"]] and overview["prefix"] == launched.prefix
    assert {step["state"] for step in overview["steps"]} == {"COMMITTED"} and len(overview["steps"]) == 8
    run = overview["launches"][0]["run"]
    assert get("/api/launches").body["launches"][0]["status"] == "done"
    found = get(f"/api/contents?of={quote(run)}").body
    assert len(found["steps"]) == 8 and found["launches"][0]["run"] == run
    assert get(f"/api/contents?of={quote(overview['steps'][0]['directory'])}").body["about"] == "step"


def test_two_of_one_name_are_told_apart(launched, serving):
    found = serving(launched.store).get("/api/contents?of=checkpoints/rate0.1&of=checkpoints/rate0.2").body
    assert found["about"] == "several" and len(found["trainings"]) == 2
    assert [one["fields"] for one in found["differences"]] == [["rate 0.1 -> 0.2"]]


def test_it_asks_the_store_no_more_than_status(launched, serving):
    counted = CountingStore(launched.store)
    status.read_statuses(counted, None, read_catalog(counted).steps)
    of_status, counted.calls = sorted(counted.calls), []
    get = serving(counted).get
    get("/")
    assert counted.calls == []
    get("/api/overview")
    assert sorted(counted.calls) == of_status
    get("/api/overview")
    assert sorted(counted.calls) == of_status, "an answer is kept for a while"


def test_nothing_is_written(launched, serving):
    counted = CountingStore(launched.store)
    get = serving(counted).get
    for path in ("/api/overview", "/api/launches", "/api/contents"):
        assert get(path).status == 200
    assert set(counted.calls) <= {"read", "read_from", "names", "names_of", "folders", "size", "sizes"}


def test_without_the_token_nothing_is_answered(launched, serving):
    serving = serving(launched.store)
    for path in ("/", "/api/overview", "/?token=wrong"):
        refused = serving.get(path, Cookie="")
        assert refused.status == 403 and "printed" in refused.body["error"]
    opened = serving.get(urlsplit(serving.server.url).path + "?" + urlsplit(serving.server.url).query, Cookie="")
    assert opened.status == 302 and opened.headers["Location"] == "/"
    assert "HttpOnly" in opened.headers["Set-Cookie"] and "SameSite=Strict" in opened.headers["Set-Cookie"]


def test_a_name_that_was_made_to_point_here_is_refused(launched, serving):
    serving = serving(launched.store)
    assert serving.get("/api/overview", Host="evil.example").status == 403
    assert serving.get("/", Host="localhost:9999").status == 200, "the other end of a tunnel"


def test_it_runs_no_file_and_reads_no_other(launched, serving, tmp_path):
    script = tmp_path / "mine.py"
    script.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    get = serving(launched.store).get
    assert get(f"/api/contents?of={quote(str(script))}").status == 404 and not (tmp_path / "ran").exists()
    (tmp_path / "1").mkdir()
    (tmp_path / "1/.log").write_text("private")
    refused = get(f"/api/log?directory={quote(str(tmp_path))}&attempt=1&offset=0")
    assert refused.status == 404 and "private" not in json.dumps(refused.body)
    assert get("/api/nothing").status == 404


def test_only_on_loopback(launched, serving):
    assert serving(launched.store).server.server_address[0] == "127.0.0.1"


def test_a_log_is_followed_to_its_end(tmp_path, serving):
    prefix, flag = str(tmp_path / "store"), tmp_path / "flag"
    flag.touch()
    step = ExecutorStep("first", wait, WaitConfig("first", while_there=unversioned(str(flag))))
    thread = threading.Thread(target=Executor(ExecutorFlags(prefix=prefix, backend="inline")).run, args=([step],))
    thread.start()
    try:
        while not Path(f"{flag}.begun").exists():
            assert thread.is_alive()
            time.sleep(0.01)
        get = serving(open_store(prefix)).get
        (shown,) = get("/api/contents").body["steps"]
        log = f"/api/log?directory={quote(shown['directory'])}&attempt=1"
        begun = get(f"{log}&offset=0").body
        assert begun["text"].endswith(" first\n") and not begun["ended"] and begun["offset"] > 0
    finally:
        flag.unlink()
        thread.join()
    end = get(f"{log}&offset={begun['offset']}").body
    assert end["text"] == "" and end["ended"]


def test_texts_of_the_page_are_safe_too(launched, serving):
    answer = serving(launched.store).get("/page?of=" + quote(HOSTILE))
    assert answer.status == 200 and HOSTILE not in answer.body, "the page is the same for all; its script asks"
    assert answer.headers["X-Frame-Options"] == "DENY" and "connect-src 'self'" in answer.body


def test_a_page_reads_nothing_of_a_step_twice(launched, serving):
    """Of a launch with thousands of steps, that is most of its time."""
    counted = CountingStore(launched.store)
    run = serving(counted).get("/api/launches").body["launches"][0]["run"]
    counted.read_paths.clear()
    assert serving(counted).get(f"/api/contents?of={quote(run)}").status == 200
    twice = {path for path in counted.read_paths if counted.read_paths.count(path) > 1}
    assert any(path.endswith(".record.json") for path in counted.read_paths) and twice == set()
