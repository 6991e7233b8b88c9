import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from marin_sft import executor_main, steps
from marin_sft.data.download import DownloadConfig, DownloadUrlsConfig, download, download_urls
from marin_sft.data.remote import transfer
from marin_sft.data.remote.hub import Repository, commit_of, list_files
from marin_sft.data.remote.transfer import MAX_TRIES, RemoteFile, Transient, fetch, patiently
from marin_sft.errors import ConfigError, DataError, RunFailed
from marin_sft.execution.executor import Executor, ExecutorFlags
from tests.hub_server import Fault, HubServer

FILES = {
    "README.md": b"# chats\n",
    "data/train-00000-of-00002.parquet": bytes(range(256)) * 12_000,
    "data/train-00001-of-00002.parquet": b"x",
    "empty.txt": b"",
}
LARGE = "data/train-00000-of-00002.parquet"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with HubServer(page_size=2) as server:
        for name, value in server.environment(home=tmp_path / "home").items():
            monkeypatch.setenv(name, value)
        yield server


def files_in(directory: str | Path) -> dict[str, bytes]:
    paths = (path for path in Path(directory).rglob("*") if path.is_file())
    found = {str(path.relative_to(directory)): path.read_bytes() for path in paths}
    return {name: data for name, data in found.items() if name != ".provenance.json"}


def provenance_of(directory: str | Path) -> dict:
    return json.loads(Path(directory, ".provenance.json").read_text())


def config(tmp_path: Path, id: str = "org/chats", attempt: str = "1", **fields) -> DownloadConfig:
    return DownloadConfig(id, earlier_attempts=fields.pop("earlier", ()), output_path=f"{tmp_path}/{attempt}", **fields)


def data_requests(hub: HubServer) -> list:
    return [r for r in hub.seen if r.path.startswith("/lfs/") or "/resolve/" in r.path]


@pytest.mark.parametrize("revision", ["main", "v1", "full", "short"])
def test_a_dataset(hub, tmp_path, capsys, revision):
    sha = hub.add_dataset("org/chats", FILES, tag="v1")
    asked = {"full": sha, "short": sha[:7]}.get(revision, revision)
    download(config(tmp_path, revision=asked))
    assert files_in(tmp_path / "1") == FILES
    said = provenance_of(tmp_path / "1")
    assert (said["id"], said["kind"], said["revision"], said["commit"]) == ("org/chats", "dataset", asked, sha)
    assert {file["name"]: file["size"] for file in said["files"]} == {name: len(data) for name, data in FILES.items()}
    digests = {file["name"]: file["digest"] for file in said["files"]}
    assert digests[LARGE] == f"sha256:{hashlib.sha256(FILES[LARGE]).hexdigest()}" and digests["README.md"][:4] == "git:"
    warned = [line for line in capsys.readouterr().err.splitlines() if "can move" in line]
    assert len(warned) == (revision in ("main", "v1")) and all(sha in message for message in warned)


def test_patterns(hub, tmp_path):
    hub.add_model(
        "tiny", {"config.json": b"{}", "model.safetensors": b"1", "onnx/model.bin": b"2", "tokenizer.json": b"3"}
    )
    tiny = config(tmp_path, "tiny", kind="model", allow_patterns=("*.json", "onnx/*"), ignore_patterns=("config.json",))
    download(tiny)
    assert set(files_in(tmp_path / "1")) == {"tokenizer.json", "onnx/model.bin"}
    with pytest.raises(DataError, match="none of its 4 files; .*config.json, model.safetensors"):
        download(replace(tiny, allow_patterns=("*.gguf",)))
    with pytest.raises(ConfigError, match="one string"):
        DownloadConfig("tiny", allow_patterns="*.json")
    with pytest.raises(ConfigError, match="'dataset', 'model'"):
        DownloadConfig("tiny", kind="space")


@pytest.mark.parametrize(
    "id, fields, token, message",
    [
        ("org/none", {}, "", "no dataset 'org/none'.*spelling.*HF_TOKEN"),
        ("org/none", {}, "hf_other", "no dataset 'org/none'.*spelling.*HF_TOKEN"),
        ("org/open", {"kind": "model"}, "", "no model 'org/open'"),
        ("org/open", {"revision": "v9"}, "", "no revision 'v9'.*branch, tag or commit"),
        ("org/private", {}, "", "no dataset 'org/private'.*private.*HF_TOKEN"),
        ("org/gated", {}, "", "org/gated is gated: accept its licence.*HF_TOKEN"),
        ("org/gated", {}, "hf_other", "org/gated is gated: accept its licence.*HF_TOKEN"),
        ("org/open", {}, "hf_wrong", "HTTP 401: Invalid credentials.*HF_TOKEN"),
        ("org//x", {}, "", "cannot be the id of a repository"),
    ],
)
def test_refusals_come_at_once(hub, tmp_path, monkeypatch, id, fields, token, message):
    hub.add_dataset("org/open", FILES)
    hub.add_dataset("org/private", FILES, private=True, readers=["hf_mine"])
    hub.add_dataset("org/gated", FILES, gated=True, readers=["hf_mine"])
    hub.tokens.add("hf_other")
    monkeypatch.setenv("HF_TOKEN", token)
    began = time.monotonic()
    with pytest.raises(DataError, match=message) as raised:
        download(config(tmp_path, id, **fields))
    assert time.monotonic() - began < 1.0, "the first wait between tries is a second"
    assert not token or token not in str(raised.value)


def test_a_token_opens_and_stays_secret(hub, tmp_path, monkeypatch, caplog):
    caplog.set_level("DEBUG")
    monkeypatch.setenv("HF_TOKEN", "hf_mine")
    for name, options in [("private", {"private": True}), ("gated", {"gated": True})]:
        hub.add_dataset(f"org/{name}", FILES, readers=["hf_mine"], **options)
        download(config(tmp_path, f"org/{name}", attempt=name))
        assert files_in(tmp_path / name) == FILES
    assert "hf_mine" not in caplog.text
    assert b"hf_mine" not in (tmp_path / "gated/.provenance.json").read_bytes()


def test_goes_on_where_the_connection_broke(hub, tmp_path, monkeypatch):
    monkeypatch.setattr("marin_sft.data.remote.transfer.MAX_TRIES", 3)
    hub.add_dataset("org/chats", FILES)
    waits: list[float] = []
    remote = remote_file_of(hub, LARGE)
    # Ever again, each time a bit later: what counts is tries without progress.
    with hub.failing(Fault(cut_after=500_000), lambda request: request.path.startswith("/lfs/"), times=6) as hit:
        assert fetch(remote, f"{tmp_path}/out", sleep=waits.append) == len(FILES[LARGE])
    assert files_in(tmp_path / "out") == {LARGE: FILES[LARGE]} and len(hit) == 6 and waits == [1.0] * 6
    begun_at = [int(r.headers["range"].removeprefix("bytes=").split("-")[0]) for r in hub.seen if "/lfs/" in r.path]
    assert begun_at == sorted(set(begun_at)) and len(begun_at) == 7


def remote_file_of(hub: HubServer, name: str) -> RemoteFile:

    repository = Repository("org/chats", "dataset", "main", hub.url)
    (file,) = list_files(replace(repository, revision=commit_of(repository)), (name,), ())
    return file


@pytest.mark.parametrize(
    "fault, waits",
    [
        (Fault(status=429, headers={"Retry-After": "7"}), [7.0, 7.0]),
        (Fault(status=503), [1.0, 2.0]),
        (Fault(cut_after=0), [1.0, 2.0]),
    ],
)
def test_waits_as_long_as_asked_and_no_longer(hub, tmp_path, fault, waits):
    hub.add_dataset("org/chats", FILES)
    remote = remote_file_of(hub, LARGE)
    waited: list[float] = []
    with hub.failing(fault, lambda request: request.path.startswith("/lfs/"), times=2):
        fetch(remote, f"{tmp_path}/out", sleep=waited.append)
    assert waited == waits and files_in(tmp_path / "out") == {LARGE: FILES[LARGE]}


def test_gives_up_in_the_end(hub, tmp_path):
    hub.add_dataset("org/chats", FILES)
    remote = remote_file_of(hub, LARGE)
    waited: list[float] = []
    with hub.failing(Fault(status=503), lambda request: True, times=99) as hit:
        with pytest.raises(DataError, match=f"HTTP 503.*gave up after {MAX_TRIES} tries; run again to continue"):
            fetch(remote, f"{tmp_path}/out", sleep=waited.append)
    assert len(hit) == MAX_TRIES and waited == [1, 2, 4, 8, 16, 32, 60]
    with hub.failing(Fault(status=429, headers={"Retry-After": "86400"}), lambda request: True):
        with pytest.raises(DataError, match="HTTP 429.*asks to wait 86400 s"):
            fetch(remote, f"{tmp_path}/out", sleep=waited.append)


def nobody() -> str:
    """An address on loopback at which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("check", ["HF_ENDPOINT", "the URL"])
def test_a_host_that_is_not_found_is_said_at_once(monkeypatch, tmp_path, caplog, check):
    monkeypatch.setenv("HF_ENDPOINT", "https://hub.invalid")
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    call = partial(download, config(tmp_path))
    if check == "the URL":
        call = partial(download_urls, DownloadUrlsConfig(("https://hub.invalid/x.bin",), output_path=f"{tmp_path}/1"))
    began = time.monotonic()
    with pytest.raises(DataError, match=rf"^hub[.]invalid is not found: [\w ]+[.] Check the network, or {check}$"):
        call()
    assert time.monotonic() - began < 20  # 3 of them are waits
    assert all(len(record.getMessage()) < 150 for record in caplog.records if record.name.startswith("marin_sft"))


def test_with_a_proxy_names_need_no_address_here(hub, monkeypatch, tmp_path):
    sha = hub.add_dataset("org/chats", FILES)
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.invalid")
    monkeypatch.setenv("http_proxy", hub.url)
    monkeypatch.setenv("no_proxy", "")
    asked = Repository("org/chats", "dataset", "main", "http://hub.invalid")
    assert patiently(lambda: commit_of(asked)) == sha
    monkeypatch.setenv("http_proxy", nobody())
    waited: list[float] = []
    with pytest.raises(DataError, match=f"Connection refused; gave up after {MAX_TRIES} tries"):
        patiently(lambda: commit_of(asked), waited.append)
    assert len(waited) == MAX_TRIES - 1


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (Fault(cut_after=0), r"the connection broke off, \d+ bytes before the end"),
        (Fault(cut_after=1000), r"the connection broke off, \d+ bytes before the end"),
        (Fault(status=503), "HTTP 503: 503 Server Error: .*"),
        (None, "Connection refused"),
    ],
)
def test_a_retry_is_told_in_few_words(hub, tmp_path, monkeypatch, fault, reason):
    told = []
    monkeypatch.setattr(transfer._logger, "warning", lambda text, *values: told.append(text % values))
    hub.add_dataset("org/chats", FILES)
    remote = remote_file_of(hub, LARGE)
    if fault is None:
        gone = replace(remote.origin, repository=replace(remote.origin.repository, endpoint=nobody()))
        with pytest.raises(DataError):
            fetch(replace(remote, origin=gone), f"{tmp_path}/out", sleep=lambda seconds: None)
    else:
        with hub.failing(fault, lambda request: request.path.startswith("/lfs/"), times=1):
            fetch(remote, f"{tmp_path}/out", sleep=lambda seconds: None)
    assert re.fullmatch(rf"http\S+: {reason}; trying again in 1 s", told[0])


def test_retry_after_may_be_a_date():
    waited: list[float] = []
    answers = iter([Transient("busy", "Wed, 21 Oct 2015 07:28:00 GMT"), Transient("busy", "soon"), None])

    def call() -> str:
        if error := next(answers):
            raise error
        return "done"

    assert patiently(call, waited.append) == "done" and waited == [0.0, 2.0]


def test_listings_are_tried_again(hub, tmp_path):
    hub.add_dataset("org/chats", FILES)
    with hub.failing(
        Fault(status=429, headers={"Retry-After": "0"}), lambda request: request.path.startswith("/api/"), times=3
    ) as hit:
        download(config(tmp_path))
    assert len(hit) == 3 and files_in(tmp_path / "1") == FILES


@pytest.mark.parametrize("name", [LARGE, "README.md"], ids=["lfs", "git"])
def test_wrong_bytes_are_fetched_again_then_refused(hub, tmp_path, name):
    hub.add_dataset("org/chats", FILES)
    remote = remote_file_of(hub, name)
    wrong = Fault(altered=lambda body: body[:-1] + b"?")
    with hub.failing(wrong, lambda request: request.path.startswith("/lfs/") or name in request.path) as hit:
        hit.clear()
        fetch(remote, f"{tmp_path}/out")
    assert files_in(tmp_path / "out") == {name: FILES[name]}
    with hub.failing(wrong, lambda request: True, times=99):
        with pytest.raises(DataError, match=r"got (sha256|git) \w+, expected \w+, twice"):
            fetch(remote, f"{tmp_path}/other")
    assert files_in(tmp_path / "other") == {}, "nothing wrong is left under a file's name, nor to go on from"


def test_an_earlier_attempt_is_taken_over(hub, tmp_path):
    hub.add_dataset("org/chats", FILES)
    with hub.failing(Fault(status=403), lambda request: request.path.endswith("README.md")):
        with pytest.raises(DataError, match="HTTP 403"):
            download(config(tmp_path))
    there = files_in(tmp_path / "1")
    part = tmp_path / "1" / f"{LARGE}.part"
    (tmp_path / "1" / LARGE).rename(part)
    os.truncate(part, 1_000_000)
    before = len(hub.seen)
    download(config(tmp_path, attempt="2", earlier=(f"{tmp_path}/1",)))
    assert files_in(tmp_path / "2") == FILES
    asked = {(r.path.split("/")[-1], r.headers.get("range")) for r in hub.seen[before:] if "/resolve/" in r.path}
    fetched = {name.split("/")[-1]: f"bytes=0-{len(FILES[name]) - 1}" for name in FILES if name not in there}
    fetched |= {LARGE.split("/")[-1]: f"bytes=1000000-{len(FILES[LARGE]) - 1}"}
    assert asked == {(name, wanted) for name, wanted in fetched.items() if name != "empty.txt"}
    assert os.path.getsize(part) == 1_000_000, "an earlier attempt is only read"


def test_a_part_that_does_not_fit_is_fetched_again(hub, tmp_path):
    sha = hub.add_dataset("org/chats", FILES)
    download(config(tmp_path, revision=sha))
    (tmp_path / "1" / LARGE).unlink()
    (tmp_path / "1" / f"{LARGE}.part").write_bytes(b"something else")
    download(config(tmp_path, revision=sha, attempt="2", earlier=(f"{tmp_path}/1",)))
    assert files_in(tmp_path / "2") == FILES


def test_nothing_is_written_outside(hub, tmp_path):
    hub.add_dataset("org/chats", {"data/../../escaped.txt": b"x"})
    with pytest.raises(DataError, match="outside of the output"):
        download(config(tmp_path))
    assert not (tmp_path / "escaped.txt").exists()


def test_nothing_is_taken_from_another_commit(hub, tmp_path):
    hub.add_dataset("org/chats", FILES)
    download(config(tmp_path))
    changed = {**FILES, LARGE: FILES[LARGE][::-1]}
    hub.add_dataset("org/chats", changed)
    download(config(tmp_path, attempt="2", earlier=(f"{tmp_path}/1",)))
    assert files_in(tmp_path / "2") == changed


def test_killed_and_run_again(hub, tmp_path):
    """SIGKILL in the middle of the large file; the next attempt asks for the rest only."""
    hub.add_dataset("org/chats", FILES)
    program = (
        "from marin_sft.data.download import *;"
        f"download(DownloadConfig('org/chats', earlier_attempts=(), output_path={str(tmp_path / '1')!r}))"
    )
    never = threading.Event()
    part = tmp_path / "1" / f"{LARGE}.part"
    digest = hashlib.sha256(FILES[LARGE]).hexdigest()
    with hub.failing(Fault(cut_after=2_000_000, wait=never), lambda request: request.path == f"/lfs/{digest}"):
        child = subprocess.Popen([sys.executable, "-c", program])
        while not (part.exists() and part.stat().st_size > 0):
            assert child.poll() is None
            time.sleep(0.02)
        child.send_signal(signal.SIGKILL)
        child.wait()
        never.set()
    kept = part.stat().st_size
    download(config(tmp_path, attempt="2", earlier=(f"{tmp_path}/1",)))
    assert files_in(tmp_path / "2") == FILES
    assert f"bytes={kept}-{len(FILES[LARGE]) - 1}" in {r.headers.get("range") for r in hub.seen}


def test_into_an_object_store(hub, tmp_path, gcs_bucket):
    import fsspec

    hub.add_dataset("org/chats", FILES)
    with hub.failing(Fault(cut_after=500_000), lambda request: request.path.startswith("/lfs/")):
        download(DownloadConfig("org/chats", earlier_attempts=(), output_path=f"{gcs_bucket}/1"))
    fs = fsspec.filesystem("gs")
    root = gcs_bucket.removeprefix("gs://")
    assert {path.removeprefix(f"{root}/1/"): fs.cat(path) for path in fs.find(f"{root}/1")}.items() >= FILES.items()
    before = len(data_requests(hub))
    again = DownloadConfig("org/chats", earlier_attempts=(f"{gcs_bucket}/1",), output_path=f"{gcs_bucket}/2")
    download(again)
    assert fs.cat(f"{root}/2/{LARGE}") == FILES[LARGE] and len(data_requests(hub)) == before
    with hub.failing(Fault(altered=lambda body: b"?" * len(body)), lambda request: "/resolve/" not in request.path, 99):
        with pytest.raises(DataError, match="twice"):
            fetch(remote_file_like(hub), f"{gcs_bucket}/3")
    assert not fs.find(f"{root}/3"), "of what is wrong nothing appears"


def remote_file_like(hub: HubServer) -> RemoteFile:
    from marin_sft.data.remote.urls import HttpFile

    digest = hashlib.sha256(FILES[LARGE]).hexdigest()
    return RemoteFile("x.bin", HttpFile(f"{hub.url}/lfs/{digest}"), len(FILES[LARGE]), f"sha256:{digest}")


def test_a_signature_reaches_the_server_and_nobody_else(hub, tmp_path):
    """Not the store; and the files are the same under another signature."""
    hub.add_dataset("org/chats", FILES)
    store = tmp_path / "store"

    def launch(path, signature, user=""):
        host = hub.url.replace("http://", f"http://{user}")
        url = f"{host}/{path}?X-Amz-Credential=AKIA&X-Amz-Signature={signature}"
        step = steps.download_urls("files", [url], sha256={url: hashlib.sha256(FILES[LARGE]).hexdigest()})
        return Executor(ExecutorFlags(prefix=str(store), backend="inline")).run([step])

    path = f"datasets/org/chats/resolve/main/{LARGE}"
    found = [launch(path, signature).results[0].status for signature in ("zqSIGNATURE991", "zqOTHER992")]
    assert found == ["ran", "cached"]
    assert ["zqSIGNATURE991"] in [request.query.get("X-Amz-Signature") for request in hub.seen]
    with pytest.raises(RunFailed):
        launch("nowhere/x.txt", "zqTHIRD993", "me:zqPASSWORD@")
    files = [path for path in store.rglob("*") if path.is_file()]
    assert files and not [path for path in files if b"zq" in path.read_bytes()]


def test_urls(hub, tmp_path, gcs_bucket):
    import fsspec

    hub.add_dataset("org/chats", FILES)
    with fsspec.open(f"{gcs_bucket}/rows.jsonl", "wb") as file:
        file.write(b'{"a": 1}\n' * 1000)
    url = f"{hub.url}/datasets/org/chats/resolve/main/{LARGE}?signature=secret"
    urls = (url, f"{gcs_bucket}/rows.jsonl")
    digest = {url: hashlib.sha256(FILES[LARGE]).hexdigest()}
    settings = DownloadUrlsConfig(urls, digest, earlier_attempts=(), output_path=f"{tmp_path}/1")
    with hub.failing(
        Fault(cut_after=100_000), lambda request: request.path.startswith("/lfs/") and request.method == "GET"
    ):
        download_urls(settings)
    assert files_in(tmp_path / "1") == {LARGE.split("/")[-1]: FILES[LARGE], "rows.jsonl": b'{"a": 1}\n' * 1000}
    assert "secret" not in (tmp_path / "1/.provenance.json").read_text()
    with pytest.raises(DataError, match="sha256 .* expected 00"):
        download_urls(replace(settings, sha256={url: "00" * 32}, output_path=f"{tmp_path}/2"))
    for missing in (f"{hub.url}/datasets/org/chats/resolve/main/none.txt?signature=secret", f"{gcs_bucket}/none"):
        with pytest.raises(DataError, match=r"none.*(404|no such file)") as raised:
            download_urls(replace(settings, urls=(missing,), sha256={}, output_path=f"{tmp_path}/3"))
        assert "secret" not in str(raised.value)
    with pytest.raises(DataError, match="2 of them are named 'rows.jsonl'"):
        download_urls(replace(settings, urls=(urls[1], urls[1]), sha256={}))
    with pytest.raises(ConfigError, match="not in urls"):
        DownloadUrlsConfig(("https://x/y",), {"https://x/z": ""})


def test_steps_in_a_launch(hub, tmp_path, caplog):
    """Through the executor: a dataset and a tokenizer, then nothing, then a branch that moved."""
    files = {"tokenizer.json": b"{}", "tokenizer_config.json": b"{}", "model.safetensors": b"1"}
    hub.add_dataset("org/chats", FILES)
    hub.add_model("org/tiny", files)
    steps_of_it = [
        steps.download("chats", hf_dataset_id="org/chats"),
        steps.download("tiny", hf_tokenizer_id="org/tiny"),
        steps.download("tiny", hf_model_id="org/tiny"),
    ]
    assert [step.name for step in steps_of_it] == ["raw/chats", "tokenizers/tiny", "models/tiny"]
    launch = [f"--prefix={tmp_path / 'store'}", "--backend=inline"]

    def run(*flags: str) -> list[dict[str, bytes]]:
        executor_main(steps=steps_of_it, argv=[*launch, *flags])
        return [files_in(next((tmp_path / "store").glob(f"{s.name}-*/latest")).resolve()) for s in steps_of_it]

    tokenizer = {name: data for name, data in files.items() if name.startswith("tokenizer")}
    visible = [{n: d for n, d in found.items() if not n.startswith(".")} for found in run()]
    assert visible == [FILES, tokenizer, files]
    before = len(hub.seen)
    run()
    assert len(hub.seen) == before, "a second launch asks the hub nothing"
    with pytest.raises(ConfigError, match="got 2 ids"):
        steps.download("x", hf_dataset_id="a", hf_model_id="b")
