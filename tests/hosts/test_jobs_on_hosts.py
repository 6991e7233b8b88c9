"""Jobs for a head on another host: their secrets, and a prefix that only makes sense where they were sent from."""

import hashlib
import json
import subprocess
import sys
import textwrap

import pytest

from tests.hosts.hosts import Host, Hosts, impossible, wait_for
from tests.hosts.ray_on_hosts import DASHBOARD, RayOnHosts

pytestmark = [pytest.mark.torture, pytest.mark.skipif(bool(reason := impossible()), reason=str(reason))]

SECRET = "hf_thisMustNotBeSeenAnywhere98765"
SCRIPT = """
    import hashlib, os, sys, time
    from pathlib import Path
    from marin_sft import ExecutorStep, executor_main, step_fn, this_output_path
    from marin_sft.execution.shards import map_shards

    def digest(_):
        return hashlib.sha256(os.environ["HF_TOKEN"].encode()).hexdigest()

    @step_fn(kind="uses")
    def uses(config):
        Path(config["out"], "digests.txt").write_text(" ".join(map_shards(digest, [1, 2]) + [digest(0)]))
        while Path(os.environ["MARIN_SFT_HOLD"]).exists():
            time.sleep(0.1)

    executor_main(steps=[ExecutorStep("uses", uses, {"out": this_output_path()})])
"""
# Processes of a host whose environment or command line has what the file has, by their command line; and files.
SEARCH = """
    import pathlib, sys
    secret = pathlib.Path(sys.argv[1]).read_bytes()
    def read(path):
        try:
            return path.read_bytes()
        except OSError:
            return b""
    found = [read(p / "cmdline") for p in pathlib.Path("/proc").glob("[0-9]*") if secret in read(p / "environ")]
    assert not [p for p in pathlib.Path("/proc").glob("[0-9]*") if secret in read(p / "cmdline")]
    files = [p for top in ("/tmp/ray", "/dev/shm") for p in pathlib.Path(top).rglob("*") if p.is_file()]
    print([words.replace(b"\\0", b" ").decode() for words in found], [str(p) for p in files if secret in read(p)])
"""
PAGES = ["jobs/", *(f"v0/{kind}?detail=1" for kind in ("actors", "jobs", "tasks", "workers", "runtime_envs"))]
# What the head's dashboard says, in all.
ASK = """
    import sys, urllib.request
    token = open(sys.argv[1]).read()
    for page in sys.argv[3:]:
        request = urllib.request.Request(f"{sys.argv[2]}/api/{page}", headers={"Authorization": f"Bearer {token}"})
        print(urllib.request.urlopen(request).read().decode(errors="replace"))
"""

GONE = """
    import sys, urllib.request
    token = open(sys.argv[1]).read()
    request = urllib.request.Request(sys.argv[2], headers={"Authorization": f"Bearer {token}"})
    try:
        print(urllib.request.urlopen(request).status)
    except urllib.error.HTTPError as error:
        print(error.code)
"""


@pytest.fixture(scope="module")
def ray(tmp_path_factory):
    """A head, a worker, and a host without Ray."""
    scratch = tmp_path_factory.mktemp("hosts")
    with Hosts(3, scratch) as hosts:
        yield RayOnHosts(hosts, workers=1, scratch=scratch, dashboard=True)


@pytest.fixture
def folder(ray, request):
    """One that all hosts see."""
    (made := ray.scratch / request.node.name).mkdir()
    return made


def python(host: Host, script: str, *words: str) -> str:
    return host.run(sys.executable, "-c", textwrap.dedent(script), *words)


def test_secrets_reach_only_the_processes_that_need_them(ray, folder):
    head, worker, outside = ray.hosts[0], ray.hosts[1], ray.hosts[2]
    (folder / "work").mkdir()
    (folder / "work/uses.py").write_text(textwrap.dedent(SCRIPT))
    (folder / "secret").write_text(SECRET)
    (hold := folder / "hold").touch()
    url = f"http://{head.address}:{DASHBOARD}"
    variables = ["-e", "HF_TOKEN", "-e", f"MARIN_SFT_HOLD={hold}"]
    words = ["--working_dir", str(folder / "work"), "--address", url, *variables]
    command = [sys.executable, "-m", "marin_sft.run.ray_run", *words, "--", "python", "uses.py", "--prefix"]
    env = {name: value for name, value in ray.env.items() if name != "RAY_ADDRESS"} | {"HF_TOKEN": SECRET}
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    job = outside.start(*command, str(folder / "store"), env=env, **output)
    try:
        found = folder / "store"
        wait_for(lambda: job.poll() is not None or [*found.glob("uses-*/1/digests.txt")], what="the step")
        assert job.poll() is None, job.communicate()[0]
        (made,) = found.glob("uses-*/1/digests.txt")
        assert {*wait_for(made.read_text).split()} == {hashlib.sha256(SECRET.encode()).hexdigest()}

        def search(host: Host) -> list[list[str]]:
            processes, files = python(host, SEARCH, str(folder / "secret")).strip()[1:-1].split("] [")
            return [eval(f"[{part}]") for part in (processes, files)]

        processes, files = search(head)
        assert {words.split()[1] for words in processes} == {"uses.py"} and not files
        assert search(worker) == [[], []]
        pages = python(head, ASK, ray.env["RAY_AUTH_TOKEN_PATH"], url, *PAGES)
        assert "uses.py" in pages and SECRET not in pages
        key = next(job["metadata"]["marin_sft_secrets"] for job in json.loads(pages.splitlines()[0]) if job["metadata"])
        package = f"{url}/api/packages/gcs/marin_sft_{key}.zip"
        assert python(head, GONE, ray.env["RAY_AUTH_TOKEN_PATH"], package) == "404\n", "taken, and so deleted"
    finally:
        hold.unlink()
        said, _ = job.communicate(timeout=120)
    assert job.returncode == 0, said
    assert SECRET not in said
    assert [*search(head), *search(worker)] == [[], [], [], []], "nor when it has ended"


def test_a_relative_prefix_from_another_host_is_refused(ray, folder):
    """Its working directory there is temporary."""
    (folder / "trial.py").write_text("from marin_sft import executor_main\nexecutor_main(steps=[])\n")
    words = ["--working_dir", str(folder), "--address", f"http://{ray.head.address}:{DASHBOARD}"]
    command = [sys.executable, "-m", "marin_sft.run.ray_run", *words, "--", "python", "trial.py", "--prefix", "store"]
    env = {name: value for name, value in ray.env.items() if name != "RAY_ADDRESS"}
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    done = ray.hosts[2].start(*command, env=env, **output)
    said, _ = done.communicate(timeout=120)
    assert done.returncode == 2 and "a relative path cannot be used in a job on another machine" in said, said
