"""`marin-sft dashboard`: from the printed link to the pages of a real Ray's dashboard, as a browser goes there."""

import http.client
import http.cookies
import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from marin_sft.run.dashboard import Doorkeeper, ways_in

JOB = "from_the_page"


def dashboard(*words, env, **options):
    line = [sys.executable, "-m", "marin_sft.run.command", "dashboard", *words]
    return subprocess.Popen(line, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


@contextmanager
def running(*words, env):
    """The command, and the first line that it prints."""
    with dashboard(*words, env=env) as process:
        try:
            yield process, process.stdout.readline()
        finally:
            process.kill()


def get(url, **headers):
    """The status, headers and body of an answer. Follows nothing."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=30)
    try:
        connection.request("GET", parts.path or "/", headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read().decode()
    finally:
        connection.close()


@pytest.fixture(scope="module")
def job(head, tmp_path_factory):
    """What ray_run prints about a job, on stdout and stderr."""
    line = [sys.executable, "-m", "marin_sft.run.ray_run", "--submission_id", JOB, "--", "true"]
    done = subprocess.run(
        line, env=head.env, cwd=tmp_path_factory.mktemp("empty"), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done


def test_the_link_opens_the_dashboard_once_and_the_token_is_nowhere_else(head, job):
    token = (head.folder / "token").read_text()
    way = re.search(r"to open it: marin-sft dashboard (.*)\)", job.stdout).group(1).split()
    assert way == ["--address", head.url, JOB]
    with running(*way, env=head.env) as (process, line):
        link = line.removeprefix("Open ").strip()
        assert get(link.rpartition("/")[0] + "/guess")[0] == 404
        assert get(f"{head.url}/api/jobs/")[0] == 401, "it is closed to others"
        status, headers, body = get(link)
        assert (status, body, headers["Cache-Control"]) == (302, "", "no-store")
        assert headers["Location"] == f"{head.url}/#/jobs/{JOB}"
        rest, errors = process.stdout.read(), process.stderr.read()
        assert process.wait(timeout=60) == 0, errors
    for part in ("HttpOnly", "SameSite=Strict", "Path=/"):
        assert part in headers["Set-Cookie"]
    ((name, cookie),) = http.cookies.SimpleCookie(headers["Set-Cookie"]).items()
    status, _, body = get(f"{head.url}/api/jobs/{JOB}", Cookie=f"{name}={cookie.value}")
    assert status == 200 and json.loads(body)["submission_id"] == JOB
    with pytest.raises(ConnectionRefusedError):
        get(link)
    assert f"ssh -N -L {urlsplit(head.url).port}:127.0.0.1:{urlsplit(head.url).port} -L {urlsplit(link).port}:" in rest
    assert token not in line + rest + errors + job.stdout + job.stderr
    logs = [path for path in Path(head.folder, "ray").rglob("*") if path.is_file() and not path.is_symlink()]
    assert logs and not any(token in path.read_text(errors="replace") for path in logs)


def test_a_link_is_good_for_one_visitor():
    """Also of several at the same time, such as a browser that looks ahead."""
    with Doorkeeper('of; a "user', "http://127.0.0.1:1/") as door, door.serving():
        answers = [get(door.link) for _ in range(2)]
    assert [status for status, *_ in answers] == [302, 404] and "run the command again" in answers[1][2]
    ((_, cookie),) = http.cookies.SimpleCookie(answers[0][1]["Set-Cookie"]).items()
    assert cookie.value == 'of; a "user', "whatever a token is made of"


def test_what_cannot_be_opened_is_said(head, job, tmp_path):
    """And how it can."""

    def error(*words, **env):
        process = dashboard(*words, env={**head.env, **env})
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out) == (2, ""), err
        return err

    assert "no job 'other'" in error("other")
    wrong = tmp_path / "wrong"
    wrong.write_text("fedcba9876543210" * 4)
    assert "requires a token: set RAY_AUTH_TOKEN" in error(RAY_AUTH_TOKEN_PATH=str(wrong))
    taken = urlsplit(head.url).port
    assert f"port {taken}: Address already in use; choose another with --port" in error("--port", str(taken))
    assert "no Ray answers at 127.0.0.1:1" in error("--address", "127.0.0.1:1")


def test_from_another_machine_it_is_a_tunnel():
    link = "http://127.0.0.1:4321/word"
    near = ways_in("http://localhost:8266", "http://127.0.0.1:8266", link)
    assert near[-1].endswith(f"ssh -N -L 8266:127.0.0.1:8266 -L 4321:127.0.0.1:4321 {os.uname().nodename}")
    far = ways_in("http://10.0.0.2:8265", "http://127.0.0.1:8265", link)
    assert far[-2].endswith(
        "The dashboard is at http://10.0.0.2:8265. First, here: ssh -N -L 8265:127.0.0.1:8265 10.0.0.2"
    )
    assert " -L 8265:10.0.0.2:8265 -L 4321:127.0.0.1:4321 " in far[-1]


@pytest.mark.torture
def test_a_browser_that_opens_the_link_sees_the_job_and_no_box_that_asks_for_a_token(head, job):
    """In headless Chromium, `make browser`: the dashboard's own scripts do the rest."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: `make browser`")
    if (chromium := shutil.which("chromium") or shutil.which("google-chrome")) is None:
        pytest.skip("needs chromium on the path")
    with running("--address", head.url, JOB, env=head.env) as (process, line), playwright.sync_playwright() as runs:
        browser = runs.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--no-proxy-server"])
        page = browser.new_context().new_page()
        page.goto(head.url)
        page.get_by_text("Authentication Token Required").wait_for(timeout=60_000)
        page.goto(line.removeprefix("Open ").strip())
        page.get_by_text("SUCCEEDED").first.wait_for(timeout=60_000)
        assert page.url == f"{head.url}/#/jobs/{JOB}" and process.wait(timeout=60) == 0
        page.goto(f"{head.url}/#/jobs")
        page.get_by_role("cell", name="exec true").first.wait_for(timeout=60_000)
        assert not page.get_by_text("Authentication Token Required").count(), "the address itself is open, too"
