"""Stores that fail for a while, and stores that are down: what a launch does, and what the user reads."""

import errno
import os
import socket
import subprocess
import sys
import threading
import time

import fsspec
import pytest

from marin_sft.errors import StoreUnavailable, UserError
from marin_sft.execution.executor import Executor, ExecutorFlags, ExecutorStep, step_fn, this_output_path
from marin_sft.execution.patience import is_passing, no_patience, once, patient, seconds_of_patience
from marin_sft.execution.stores import open_store
from tests.execution.test_claims import claim_from_elsewhere, node_of
from tests.gcs_server import Fault


class Shaky:
    """Fails so many times, then answers."""

    prefix = "/shared/disk"

    def __init__(self, failures: int, code: int) -> None:
        self.failures, self.code = failures, code
        self.calls = 0

    def answer(self) -> str:
        self.calls += 1
        if self.calls <= self.failures:
            raise OSError(self.code, os.strerror(self.code), "/shared/disk/x")
        return "fine"

    patient_answer = patient(answer)
    single_answer = once(answer)


def test_what_passes_is_asked_for_again():
    shaky = Shaky(3, errno.ESTALE)
    assert shaky.patient_answer() == "fine" and shaky.calls == 4


def test_what_does_not_pass_is_told_at_once():
    shaky = Shaky(1, errno.EACCES)
    with pytest.raises(
        StoreUnavailable, match="prefix /shared/disk: it refuses: .*Permission denied.* Check that"
    ) as e:
        shaky.patient_answer()
    assert shaky.calls == 1 and isinstance(e.value, OSError) and not e.value.silent


def test_patience_ends(monkeypatch):
    monkeypatch.setenv("MARIN_SFT_STORE_PATIENCE", "0.5")
    shaky = Shaky(1000, errno.ETIMEDOUT)
    with pytest.raises(StoreUnavailable, match="it does not answer in 0 s, tried 3 times") as e:
        shaky.patient_answer()
    assert e.value.silent


def test_without_patience_and_what_must_not_be_repeated():
    shaky = Shaky(1000, errno.ETIMEDOUT)
    with pytest.raises(StoreUnavailable), no_patience():
        shaky.patient_answer()
    with pytest.raises(StoreUnavailable):
        shaky.single_answer()
    assert shaky.calls == 2


@pytest.mark.parametrize("code", [errno.ENOENT, errno.EEXIST, errno.EISDIR, errno.ENOTDIR])
def test_answers_are_no_failures(code):
    shaky = Shaky(1, code)
    with pytest.raises(OSError) as e:
        shaky.patient_answer()
    assert shaky.calls == 1 and not isinstance(e.value, StoreUnavailable)


def test_errors_of_clients_that_pass():
    """As the clients themselves raise them."""
    import aiohttp
    import botocore.exceptions
    import google.auth.exceptions
    import requests
    from gcsfs.retry import HttpError

    def of_s3(status: int, code: str) -> Exception:
        answer = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
        return botocore.exceptions.ClientError(answer, "PutObject")

    for error in (
        aiohttp.ServerDisconnectedError(),
        botocore.exceptions.EndpointConnectionError(endpoint_url="http://x"),
        botocore.exceptions.ReadTimeoutError(endpoint_url="http://x"),
        google.auth.exceptions.TransportError(),
        requests.exceptions.ProxyError(),
        TimeoutError(),
        HttpError({"code": 503}),
        HttpError({"code": "429"}),
        of_s3(503, "SlowDown"),
        of_s3(409, "ConditionalRequestConflict"),
    ):
        outer = OSError("of the store")
        outer.__cause__ = error
        assert is_passing(outer), error
    for error in (
        botocore.exceptions.NoCredentialsError(),
        google.auth.exceptions.DefaultCredentialsError(),
        HttpError({"code": 401}),
        of_s3(403, "AccessDenied"),
        PermissionError("Forbidden"),
    ):
        assert not is_passing(error), error


@pytest.fixture
def nobody():
    """A port on loopback that refuses connections."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


SCRIPT = """
from marin_sft import ExecutorStep, executor_main, step_fn, this_output_path

@step_fn(kind="nothing")
def nothing(config): ...

executor_main(steps=[ExecutorStep("s", nothing, {"out": this_output_path()})])
"""


@pytest.mark.parametrize("credentials, flags", [(True, ["--backend", "inline"]), (False, ["--dry_run"])])
def test_s3_down_or_without_credentials_is_one_paragraph(tmp_path, nobody, credentials, flags):
    (tmp_path / "script.py").write_text(SCRIPT)
    env = {
        **{name: value for name, value in os.environ.items() if not name.startswith("AWS_")},
        **({"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x"} if credentials else {}),
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{nobody}",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_MAX_ATTEMPTS": "1",
        "NO_PROXY": "127.0.0.1",
        "MARIN_SFT_STORE_PATIENCE": "0",
    }
    commands = [[sys.executable, "script.py", *flags], [sys.executable, "-m", "marin_sft.run.command", "status"]]
    for command in commands:
        done = subprocess.run(
            [*command, "--prefix", "s3://bucket/x"], cwd=tmp_path, env=env, capture_output=True, text=True
        )
        assert done.returncode == 2, done.stderr
        (line,) = done.stderr.splitlines()
        said = "EndpointConnectionError" if credentials else "NoCredentialsError"
        assert line.startswith("error: prefix s3://bucket/x: it ") and said in line
        assert "Check the network, AWS_ENDPOINT_URL, and the credentials" in line


def waits_for(name):
    """Requests for the state of that step."""
    return lambda request: f"{name}-" in f"{request.name} {request.query}"


@pytest.mark.parametrize("comes_back", [True, False])
def test_a_store_that_fails_while_a_launch_waits(pipeline, gcs, monkeypatch, comes_back):
    """One launch waits for a step of another, and sees nothing of it for a while."""
    monkeypatch.setenv("MARIN_SFT_STORE_PATIENCE", "30" if comes_back else "0.5")
    prefix = f"gs://bucket/waiting-{comes_back}"
    elsewhere, store = pipeline.step("elsewhere"), open_store(prefix)
    claim = claim_from_elsewhere(store, node_of(elsewhere))
    refused = threading.Event()

    def fault(request):
        if not waits_for("elsewhere")(request):
            return None
        if refused.is_set() and comes_back:
            return None
        refused.set()
        return Fault.UNAUTHORIZED

    @step_fn(kind="breaker")
    def breaker(config):
        gcs.fault = fault

    steps = [elsewhere, ExecutorStep("breaker", breaker, this_output_path())]
    try:
        if comes_back:
            publisher = threading.Thread(
                target=lambda: refused.wait() and commit_on_object_store(store, node_of(elsewhere), claim)
            )
            publisher.start()
            run = pipeline.run(*steps, prefix=prefix)
            publisher.join()
            assert {result.item.node.name: result.status for result in run.results} == {
                "elsewhere": "adopted",
                "breaker": "ran",
            }
        else:
            with pytest.raises(StoreUnavailable, match="who are you.*Finished steps are kept") as e:
                pipeline.run(*steps, prefix=prefix)
            assert "while waiting for elsewhere: prefix gs://bucket" in str(e.value)
    finally:
        gcs.fault = lambda request: None
    assert refused.is_set()


def commit_on_object_store(store, node, claim):
    from marin_sft.execution.clock import now
    from marin_sft.execution.commits import Commit, publish

    store.replace(f"{store.path(node.directory)}/{claim.number}/text.txt", b"from elsewhere")
    publish(store, node.directory, Commit(1, claim.number, node.fingerprint, node.payload, "d", (), None, now()))


@pytest.mark.parametrize("text", ["soon", "-1", "nan", ""])
def test_patience_that_is_no_number_of_seconds(monkeypatch, text):
    monkeypatch.setenv("MARIN_SFT_STORE_PATIENCE", text)
    with pytest.raises(UserError, match=f"^MARIN_SFT_STORE_PATIENCE={text}; expected a number of seconds >= 0$"):
        seconds_of_patience()


@pytest.mark.parametrize("prefix", ["gs://bucket", "s3://bucket"])
def test_without_network_a_launch_says_so_in_seconds(monkeypatch, prefix):
    """The clients alone ask for most of a minute, for credentials and for the store."""
    fsspec.get_filesystem_class(prefix[:2]).clear_instance_cache()  # clients of other tests know other servers
    host = "nowhere.invalid"
    for proxy in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(proxy, raising=False)
        monkeypatch.delenv(proxy.upper(), raising=False)
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://{host}")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}")
    step = ExecutorStep("step", print, {"out": this_output_path()})
    began = time.monotonic()
    with pytest.raises(StoreUnavailable, match=f"prefix {prefix}: {host} is not found: .*[.] Check the network"):
        Executor(ExecutorFlags(prefix=prefix)).run([step])
    assert time.monotonic() - began < 10
