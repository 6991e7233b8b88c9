"""Launcher files, and a tunnel made by `ray dashboard`. The program `ssh` is ours: there is no server to log in to."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from marin_sft.errors import UserError
from marin_sft.run.launcher_file import find_launcher_file, tunnel_to_dashboard

ROOT = Path(__file__).parents[2]
LAUNCHER = """
    cluster_name: {name}
    provider: {{type: local, head_ip: 10.0.0.9, worker_ips: []}}
    auth: {{ssh_user: me}}
"""
# Forwards what comes to the port after -L to PORT, as a server there would do, and runs no command.
SSH = """
    #!{python}
    import socket, sys, threading

    def pump(source, sink):
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)

    words = sys.argv[1:]
    if "-L" not in words:
        sys.exit(0)
    assert "me@10.0.0.9" in words
    local, _, remote = words[words.index("-L") + 1].split(":")
    assert remote == "8265"
    listener = socket.create_server(("127.0.0.1", int(local)))
    while True:
        near, _ = listener.accept()
        far = socket.create_connection(("127.0.0.1", {port}))
        for pair in ((near, far), (far, near)):
            threading.Thread(target=pump, args=pair, daemon=True).start()
"""


@pytest.fixture
def infra(tmp_path, monkeypatch):
    (tmp_path / "infra/gcp").mkdir(parents=True)
    for file, name in (("small", "mine"), ("v4-spot", "tpu-v4"), ("v4-reserved", "tpu-v4")):
        (tmp_path / f"infra/gcp/{file}.yaml").write_text(textwrap.dedent(LAUNCHER.format(name=name)))
    (tmp_path / "infra/job.yaml").write_text("kind: RayJob\nmetadata: {name: mine}\n---\nkind: Secret\n")
    (tmp_path / "infra/broken.yaml").write_text("a: [")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_cluster_is_found_by_file_or_name(infra):
    for name in ("mine", "small", "infra/gcp/small.yaml"):
        assert find_launcher_file(name) == "infra/gcp/small.yaml"
    assert find_launcher_file("v4-spot") == "infra/gcp/v4-spot.yaml"
    with pytest.raises(UserError, match="the cluster_name of .*reserved.*spot.*; expected one of"):
        find_launcher_file("tpu-v4")
    with pytest.raises(UserError, match="--cluster mime: no such file, and no launcher .*; did you mean 'mine'"):
        find_launcher_file("mime")
    with pytest.raises(UserError) as caught:
        find_launcher_file("something else")
    assert str(caught.value).endswith("; there are: small, v4-reserved, v4-spot")
    with pytest.raises(UserError, match="expected a file for `ray up`.*kubectl port-forward"):
        find_launcher_file("infra/job.yaml")


def test_an_example_with_gaps_is_refused_by_their_names(infra):
    (infra / "infra/gcp/v5e.yaml").write_text((ROOT / "infra/gcp/v5e-spot.yaml").read_text())
    for name in ("v5e", "marin-sft-v5e-spot", "infra/gcp/v5e.yaml"):
        with pytest.raises(UserError, match="<BUCKET>, <PROJECT>, <REGION>, <ZONE> must be filled in.*infra/make.py"):
            find_launcher_file(name)


def test_a_cluster_that_is_not_up_is_said(infra, monkeypatch):
    monkeypatch.setenv("RAY_TMPDIR", str(infra))
    with (
        pytest.raises(UserError, match="has not reached the head: .*is it up"),
        tunnel_to_dashboard("infra/gcp/small.yaml"),
    ):
        pass


def test_a_job_goes_through_a_tunnel(infra, head):
    ssh = infra / "bin/ssh"
    ssh.parent.mkdir()
    port = head.url.rpartition(":")[2]
    ssh.write_text(textwrap.dedent(SSH.format(python=sys.executable, port=port)).lstrip())
    ssh.chmod(0o755)
    tags = {"ray-node-type": "head", "ray-node-status": "up-to-date"}
    state = {"10.0.0.9": {"tags": tags, "state": "running"}}  # what `ray up` leaves
    (infra / "ray").mkdir()
    (infra / "ray/cluster-mine.state").write_text(json.dumps(state))
    env = {**head.env, "PATH": f"{ssh.parent}:{head.env['PATH']}", "RAY_TMPDIR": str(infra)}
    command = [sys.executable, "-m", "marin_sft.run.ray_run", "--cluster", "mine", "-e", "A=secret of mine", "--"]
    done = subprocess.run([*command, "sh", "-c", "echo got $A"], env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stdout.splitlines()[1:] == ["got secret of mine"], done.stdout + done.stderr
    assert "127.0.0.1:8265" not in done.stdout, "where another Ray may come up meanwhile, and get the job"
