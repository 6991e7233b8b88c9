"""Jobs on a real Ray head on loopback. One head serves the module."""

import contextlib
import dataclasses
import functools
import json
import os
import shlex
import signal
import subprocess
import sys
import textwrap
import urllib.request
import zipfile
from pathlib import Path

import pytest

from marin_sft.errors import UserError
from marin_sft.run import job, job_client, job_packages, job_secrets, ray_run

ROOT = Path(__file__).parents[2]
SECRET = "hf_thisMustNotBeSeen0123456789"
SHOW = """
    import json, os, sys
    print(json.dumps({
        "argv": sys.argv[1:],
        "env": {name: os.environ.get(name) for name in ("PLAIN", "SPACED", "COPIED", "HF_TOKEN", "GIT_COMMIT")},
        "launcher": os.environ["MARIN_SFT_LAUNCHER"],
        "executable": sys.executable,
    }))
    code = os.environ.get("CODE", "0")
    sys.exit(int(code)) if code.isdigit() else os.kill(os.getpid(), 9)
"""


@pytest.fixture
def work(tmp_path) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "show.py").write_text(textwrap.dedent(SHOW))
    return folder


def run(head, work: Path, *arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "marin_sft/run/ray_run.py"), *arguments]
    environment = {**head.env, **(env or {})}
    return subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, timeout=240)


def shown(done: subprocess.CompletedProcess) -> dict:
    return json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))


@contextlib.contextmanager
def client(head):
    from ray._private.authentication_test_utils import reset_auth_token_state

    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**head.env, "RAY_AUTH_MODE": "token"}.items():
            patch.setenv(name, value)
        reset_auth_token_state()  # Ray reads these variables once, and this process may have imported it before
        yield ray_run.connect(head.url)
    reset_auth_token_state()


def test_argv_variables_and_secrets_arrive_and_leave_no_trace(head, work):
    awkward = ["two words", '["tokenized/a b"]', "$HOME `id` \\ !", "it's", '"', "", "--flag=x;y", "a\nb", "--", "*"]
    variables = ["-e", "PLAIN", "1", "--env_vars", "SPACED=a 'b' $c", "-e", "COPIED", "--env_vars", "HF_TOKEN"]
    env = {"COPIED": "from here", "HF_TOKEN": SECRET, "TMPDIR": str(work.parent)}
    done = run(head, work, *variables, "--", "python", "show.py", *awkward, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    assert shown(done)["argv"] == awkward
    assert done.stderr == "" and "Running entrypoint" not in done.stdout
    expected = {"PLAIN": "1", "SPACED": "a 'b' $c", "COPIED": "from here", "HF_TOKEN": SECRET, "GIT_COMMIT": None}
    assert shown(done)["env"] == expected
    keys = "--env_vars PLAIN --env_vars SPACED --env_vars COPIED --env_vars HF_TOKEN --"
    assert shown(done)["launcher"].endswith(f"ray_run.py {keys}"), "what says how to go on names it, without values"
    assert os.path.dirname(shown(done)["executable"]) == os.path.dirname(sys.executable)
    # The script printed its variables, and so its log has the secret. Nothing else may.
    assert [line for line in (done.stdout + done.stderr).splitlines() if SECRET in line] == [json.dumps(shown(done))]
    with client(head) as asked:
        jobs = asked.list_jobs()
        assert any(job.submission_id.startswith("show-") for job in jobs)
        assert SECRET not in repr(jobs)
    logs = [path for path in head.folder.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]
    assert {path.name.partition("-show")[0] for path in logs} == {"job-driver"}
    assert not list(work.parent.glob("marin_sft_*")), "no file has them"


@pytest.mark.parametrize("code, expected", [("3", 3), ("1", 1), ("killed", 137)])
def test_the_job_s_exit_code_is_ours(head, work, code, expected):
    assert run(head, work, "-e", f"CODE={code}", "--", "python", "show.py").returncode == expected


def test_no_wait_prints_the_name_and_the_page(head, work):
    done = run(head, work, "--no_wait", "--submission_id", "my_job", "--address", head.url[7:], "--", "sleep", "60")
    way = f"to open it: marin-sft dashboard --address {head.url} my_job"
    assert done.returncode == 0 and done.stdout == f"Job my_job: {head.url}/#/jobs/my_job  ({way})\n", done.stderr
    with client(head) as asked:
        assert not asked.get_job_status("my_job").is_terminal()
        assert asked.stop_job("my_job")
    again = run(head, work, "--submission_id", "my_job", "--", "true")
    assert again.returncode == 2 and "already" in again.stderr and "Traceback" not in again.stderr


@pytest.mark.parametrize("flags, status", [([], "RUNNING"), (["--stop_on_interrupt"], "STOPPED")])
def test_ctrl_c_detaches_or_stops(head, work, flags, status):
    go_on = work.parent / "go_on"  # not in the working directory: Ray would read it to pack it
    os.mkfifo(go_on)
    (work / "wait.py").write_text(f"print('waiting', flush=True); open({str(go_on)!r}).read()")
    name = f"waits-{status}"
    command = [
        sys.executable,
        "-m",
        "marin_sft.run.ray_run",
        "--submission_id",
        name,
        *flags,
        "--",
        "python",
        "wait.py",
    ]
    with subprocess.Popen(
        command, cwd=work, env=head.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as ours:
        for line in ours.stdout:  # it comes while the job runs: logs are followed
            if line == "waiting\n":
                break
        ours.send_signal(signal.SIGINT)
        _, error = ours.communicate(timeout=60)
    assert ours.returncode == 130
    if not flags:
        assert "The job continues" in error and f"marin-sft stop --address {head.url} {name}" in error
        with client(head) as asked:
            assert asked.get_job_status(name) == "RUNNING"
        with open(go_on, "w"):
            pass
    with client(head) as asked:
        ended = ray_run.follow(asked, name)
    assert ended == {"RUNNING": 0, "STOPPED": 130}[status]


def get(head, page: str) -> str:
    token = {"Authorization": f"Bearer {(head.folder / 'token').read_text()}"}
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(urllib.request.Request(f"{head.url}/api/{page}", headers=token)) as answer:
        return answer.read().decode()


EXPERIMENT = """
    import os, sys
    from helper import note
    from parts.more import shout
    from marin_sft import CpuConfig, ExecutorStep, RuntimeEnv, executor_main, step_fn, this_output_path
    from marin_sft.execution.shards import map_shards

    def secret_of(item):
        return len(os.environ["HF_TOKEN"])

    @step_fn(kind="body")
    def body(config):
        import ray
        print("hello from", config["name"])
        lengths = map_shards(secret_of, [1, 2])
        address = ray.get_runtime_context().gcs_address
        note(config["out"], " ".join(map(str, (address, *lengths, os.environ.get("FOR_THE_STEP"), shout("x")))))

    @step_fn(kind="fresh", fresh_process=True)
    def fresh(config):
        body(config)

    env = RuntimeEnv(env_vars={"FOR_THE_STEP": "yes"})
    config = {"name": "first", "out": this_output_path()}
    first = ExecutorStep("a/first", body, config, resources=CpuConfig(runtime_env=env))
    second = ExecutorStep("a/second", fresh, {"name": "second", "out": this_output_path(), "after": first})
    if __name__ == "__main__":
        executor_main(steps=[second])
"""


def test_an_experiment_runs_on_that_cluster(head, work):
    """Steps, their helpers beside the script and in the working directory, secrets, relative prefix, provenance.

    Temporary files lie in the working directory, which is shipped.
    """
    (work / "tmp").mkdir()
    (work / "experiments").mkdir()
    (work / "parts").mkdir()
    (work / "parts" / "more.py").write_text("def shout(text): return text.upper()\n")
    (work / "experiments" / "helper.py").write_text(
        "def note(folder, text):\n    open(folder + '/note.txt', 'w').write(text)\n"
    )
    (work / "experiments" / "trial.py").write_text(textwrap.dedent(EXPERIMENT))
    (work / ".gitignore").write_text("out/\n")
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c", "-C", str(work)]
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-qm", "all"]):
        subprocess.run([*git, *arguments], check=True)
    (work / "new.txt").touch()
    commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()

    secret = SECRET[::-1]  # another test's script has printed the other one
    arguments = ["-e", "HF_TOKEN", secret, "--", "python", "experiments/trial.py", "--prefix", "out"]
    done = run(head, work, *arguments, env={"TMPDIR": "./tmp"})
    assert done.returncode == 0, done.stdout + done.stderr
    assert "a/first | hello from first" in done.stdout
    (first,) = work.glob("out/a/first-*/latest/note.txt")
    (second,) = work.glob("out/a/second-*/latest/note.txt")
    assert first.read_text() == f"{head.gcs} {len(SECRET)} {len(SECRET)} yes X"
    assert second.read_text() == f"{head.gcs} {len(SECRET)} {len(SECRET)} None X"
    launch = json.loads((first.parent / ".record.json").read_text())["launch"]
    assert (launch["git_commit"], launch["git_dirty"]) == (commit, True)
    files = [path for top in (head.folder, work) for path in top.rglob("*") if path.is_file()]
    assert not [path for path in files if secret.encode() in path.read_bytes()]
    pages = [f"v0/{kind}?detail=1" for kind in ("actors", "jobs", "tasks", "workers", "runtime_envs")]
    for page in ("jobs/", *pages):
        answer = get(head, page)
        assert answer and secret not in answer

    again = run(head, work, *arguments)
    assert again.returncode == 0 and "0 steps run, 2 cached" in again.stdout


def test_a_step_that_no_node_can_serve_says_so(head, work):
    (work / "script.py").write_text(
        "from marin_sft import CpuConfig, ExecutorStep, executor_main, this_output_path\n"
        "def body(config): pass\n"
        "step = ExecutorStep('big', body, this_output_path(), resources=CpuConfig(cpus=1, custom={'magic': 2}))\n"
        "executor_main(steps=[step])\n"
    )
    command = [sys.executable, "script.py", "--prefix", str(work / "out")]
    env = {**head.env, "RAY_ADDRESS": head.gcs, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, cwd=work, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as driver:
        told = next(line for line in driver.stdout if "waits" in line)
        driver.send_signal(signal.SIGINT)
        driver.communicate(timeout=60)
    assert "big waits: it requests CPU 1, magic 2 on one node" in told and "CPU 2, magic 0" in told
    assert driver.returncode == 130


def test_a_job_that_cannot_start_says_why(head, work):
    flags = ["--submission_id", "stuck", "--entrypoint_resources", '{"magic": 1}', "--stop_on_interrupt"]
    command = [sys.executable, "-m", "marin_sft.run.ray_run", *flags, "--", "true"]
    with subprocess.Popen(command, cwd=work, env=head.env, stderr=subprocess.PIPE, text=True) as ours:
        told = ours.stderr.readline()
        ours.send_signal(signal.SIGINT)
        ours.communicate(timeout=60)
    assert "waiting for resources" in told
    assert ours.returncode == 130


def test_secrets_can_be_taken_only_once_and_go_when_nobody_takes_them(head, work):
    with client(head) as asked:
        made = job.make_job(["true"], {"HF_TOKEN": SECRET}, str(work), here=True)
        job_client.submit(asked, made)
        assert ray_run.follow(asked, made.submission_id) == 0
        assert asked.get_job_info(made.submission_id).metadata == {
            "job_name": "true",
            "marin_sft_secrets": made.secrets_key,
        }
        assert not asked._package_exists(f"gcs://{job_secrets._name(made.secrets_key)}")
        again = dataclasses.replace(made, submission_id="again", secrets={})
        job_client.submit(asked, again)
        assert ray_run.follow(asked, "again") == 2
        assert "this job's secrets are gone" in asked.get_job_logs("again").splitlines()[-1]


def test_a_job_is_listed_by_its_command(head, work):
    """And that finds this environment's programs first, on a head of this machine."""
    (work / "which.sh").write_text("command -v python; printf %s $MARIN_SFT_LAUNCH_DIR\n")
    done = run(head, work, "--submission_id", "listed", "--", "sh", "which.sh")
    assert done.stdout.splitlines()[-2:] == [str(Path(sys.executable).with_name("python")), str(work)]
    with client(head) as asked:
        assert asked.get_job_info("listed").entrypoint == "exec sh which.sh"


def wheel(folder: Path, name: str) -> Path:
    """A wheel with one module, which needs no package index."""
    path = folder / f"{name}-1.0-py3-none-any.whl"
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(f"{name}.py", f"WHO = {name!r}\n")
        file.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        file.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        file.writestr(f"{info}/RECORD", "")
    return path


# A step with packages of its own gets another environment, whose making takes as long again.
@pytest.mark.parametrize("own", [[], pytest.param(["of_step"], marks=pytest.mark.torture)])
def test_packages_are_installed_for_the_command_and_its_steps(head, work, own):
    wheels = {name: str(wheel(work.parent, name)) for name in ("of_deps", "of_extra", "of_step")}
    (work / "pyproject.toml").write_text(
        '[project]\nname = "mine"\n[project.optional-dependencies]\n'
        f'few = ["{wheels["of_extra"]}"]\nall = ["mine[few]"]\n'
    )
    modules = ", ".join(["of_deps", "of_extra", *own])
    (work / "needs.py").write_text(
        "import of_deps, of_extra\n"
        "from marin_sft import CpuConfig, ExecutorStep, RuntimeEnv, executor_main, this_output_path\n"
        "def body(config):\n"
        f"    import {modules}\n"
        f"    print('step has', *(module.WHO for module in ({modules})))\n"
        f"env = RuntimeEnv(pip={tuple(wheels[name] for name in own)!r})\n"
        "step = ExecutorStep('needs', body, this_output_path(), resources=CpuConfig(runtime_env=env))\n"
        "executor_main(steps=[step])\n"
    )
    flags = ["--extra", "all", "--pip_deps", wheels["of_deps"], "-e", "HF_TOKEN", SECRET]
    done = run(head, work, *flags, "--", "python", "needs.py", "--prefix", "out")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"step has {modules.replace(',', '')}" in done.stdout


def test_the_token_is_asked_for(head, work):
    done = run(head, work, "--", "true", env={"RAY_AUTH_TOKEN_PATH": str(work / "none"), "HOME": str(work)})
    assert done.returncode == 2 and "RAY_AUTH_TOKEN" in done.stderr and "Traceback" not in done.stderr


# What needs no Ray.


def test_variables(monkeypatch):
    monkeypatch.setenv("HERE", "x")
    monkeypatch.delenv("NOT_HERE", raising=False)
    assert job.parse_variables([["A", "1"], ["B=2=3"], ["C="], ["HERE"]]) == {
        "A": "1",
        "B": "2=3",
        "C": "",
        "HERE": "x",
    }
    for words in (
        ["NOT_HERE"],
        ["A", SECRET, "c"],
        [f"A={SECRET}", "b"],
        [f"A-B={SECRET}"],
        ["1A", SECRET],
        ["A", f"TOKEN={SECRET}"],
    ):
        with pytest.raises(UserError) as caught:
            job.parse_variables([words])
        assert "--env_vars" in str(caught.value) and SECRET not in str(caught.value)
    with pytest.raises(
        UserError, match="--env_vars A: expected a value after it, got what looks like another variable"
    ):
        job.parse_variables([["A", "HERE"]])


@pytest.mark.parametrize(
    "argv, message",
    [
        ([], "got no --"),
        (["python", "x.py"], "got no --"),
        (["--"], "expected a command"),
        (["--env_var", "HF_TOKEN", SECRET, "--", "true"], "unknown --env_var before --; did you mean '--env_vars'?"),
        (["--envvars", "HF_TOKEN", SECRET, "--", "true"], "unknown --envvars before --; did you mean '--env_vars'?"),
        ([f"--hf={SECRET}", "--", "true"], "unknown --hf before"),
        (["--entrypoint_num_cpus", "many", "--", "true"], "invalid float"),
        (["--entrypoint_resources", '["a"]', "--", "true"], """expected JSON such as '{"name": 1}'"""),
        (["--tpu", "v4-64", "--", "true"], "v4-64 has 8 hosts, but a job's command runs on one; omit it"),
        (["--tpu", "v9-8", "--", "true"], "expected one of v2, v3, v4, v5p, v5e, v6e, v7x and its cores"),
        (["--tpu", "v5e-3", "--", "true"], "expected v5e-1 or v5e-4, got 'v5e-3'"),
        (["--working_dir", "", "--", "true"], "--working_dir: expected a path, got an empty one"),
        (["--cluster", "nosuch", "--", "true"], "--cluster nosuch: no such file, and no launcher file in infra/"),
        (["--cluster", "x", "--address", "y", "--", "true"], "--cluster and --address: expected one of them"),
    ],
)
def test_mistakes_end_before_anything_is_sent(argv, message, capsys):
    assert ray_run.main(argv) == 2
    error = capsys.readouterr().err
    assert message in error and SECRET not in error


def test_nothing_answers(capsys):
    assert ray_run.main(["--address", "127.0.0.1:9", "--", "true"]) == 2
    assert "no Ray answers at 127.0.0.1:9" in capsys.readouterr().err


def test_secrets_are_seen_only_if_that_is_said(tmp_path):
    made = job.make_job(["true"], {"HF_TOKEN": SECRET}, str(tmp_path), here=False)
    assert made.secrets == {"HF_TOKEN": SECRET} and SECRET not in repr(made)
    assert made.entrypoint == f"exec python -m marin_sft.run.job_secrets {made.secrets_key} true"
    made = job.make_job(["true"], {"HF_TOKEN": SECRET}, str(tmp_path), here=False, visible=["HF_TOKEN"])
    assert made.runtime_env["env_vars"]["HF_TOKEN"] == SECRET and made.entrypoint == "exec true"
    assert "PATH" not in made.runtime_env["env_vars"] and not made.secrets


@pytest.mark.parametrize("python", ["/opt/venv/bin/python3.12", "python3"])
def test_secrets_are_taken_by_the_interpreter_of_the_command(tmp_path, python):
    made = job.make_job([python, "x.py"], {"HF_TOKEN": SECRET}, str(tmp_path), here=False)
    assert made.entrypoint.startswith(f"exec {python} -m marin_sft.run.job_secrets")


NAMES_OF_SECRETS = ["DB_PASS", "PGPASSWORD", "REDIS_PWD", "GITHUB_PAT", "NPM_AUTH", "CREDENTIALS", "DATABASE_URL"]
NAMES_OF_SECRETS += ["API_KEYS", "WHATEVER", "MY_SETTING", "RAY_AUTH_TOKEN", "JAX_SECRET"]


def test_only_what_is_known_to_be_harmless_or_is_said_to_be_goes_where_it_can_be_seen(tmp_path):
    harmless = {"PYTHONUNBUFFERED": "1", "XLA_FLAGS": "--x=1", "JAX_PLATFORMS": "cpu", "MARIN_SFT_SCALE": "tiny"}
    variables = dict.fromkeys(NAMES_OF_SECRETS, "x") | harmless | {"PYTHONPATH": f"/x/{SECRET}", "NCCL_X": "", "A": "1"}
    made = job.make_job(["true"], variables, str(tmp_path), here=True, visible=["A"])
    seen = variables.keys() & made.runtime_env["env_vars"].keys()
    assert seen == {*harmless, "NCCL_X", "A"}
    assert made.secrets.keys() == variables.keys() - seen


def test_a_secret_in_the_command_is_refused(tmp_path):
    with pytest.raises(UserError, match="a word of the command looks like a secret.*--env_vars NAME") as caught:
        job.make_job(["python", "x.py", f"--key={SECRET}"], {}, str(tmp_path), here=True)
    assert SECRET not in str(caught.value)


def test_flags_for_what_may_be_seen(capsys):
    flags, _ = ray_run.parse("-e A 1 -e B 2 --visible_env A --address h:1 -- true".split())
    assert ray_run._visible(flags, {"A": "1", "B": "2"}) == ["A"]
    launcher = ray_run._launcher(flags, {"A": "1"})
    assert launcher.endswith("--address h:1 --env_vars A=1 --env_vars B --visible_env A --")
    flags, _ = ray_run.parse("-e A 1 -e B 2 --allow_visible_secrets -- true".split())
    assert set(ray_run._visible(flags, {"A": "1", "B": "2"})) == {"A", "B"}
    assert ray_run.main("-e A 1 --visible_env B -- true".split()) == 2
    assert "--visible_env B: expected a variable named in --env_vars" in capsys.readouterr().err


def test_what_submits_a_job_again_has_all_that_makes_the_job(tmp_path):
    given = (
        f"--working_dir {tmp_path} -e MARIN_SFT_SCALE=tiny -e JAX_PLATFORMS -e A 1 --entrypoint_num_cpus 2 --tpu v4-8"
    )
    flags, _ = ray_run.parse([*given.split(), "--", "true"])
    shown = {"MARIN_SFT_SCALE": "tiny", "JAX_PLATFORMS": "cpu"}
    own = shlex.split(ray_run._launcher(flags, shown))[2:]
    again, _ = ray_run.parse([*own, "true"])
    assert [words[0] for words in again.env_vars] == ["MARIN_SFT_SCALE=tiny", "JAX_PLATFORMS", "A"]
    assert again.working_dir == flags.working_dir and ray_run._reserved(again) == ray_run._reserved(flags)


def test_a_script_that_is_not_there_is_seen_before_anything_is_sent(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert ray_run.main(["--", "python", "nosuch.py", "--x"]) == 2
    assert f"python nosuch.py: no nosuch.py in --working_dir {tmp_path}" in capsys.readouterr().err
    (tmp_path / "is.py").touch()
    for command in (["python3.11", "is.py"], ["python", "/elsewhere/x.py"], ["python", "-m", "x.py"], ["bash", "x.py"]):
        job.check_script(command, ".")


@pytest.mark.parametrize(
    "command, stem",
    [
        (["python", "experiments/exp808_sft_mixture.py", "--x", "y.py"], "exp808_sft_mixture"),
        (["python", "-m", "package.module", "-m", "x"], "package.module"),
        (["bash", "-c", "a b"], "bash"),
    ],
)
def test_the_submission_id_has_the_script_s_name(command, stem):
    assert job.make_submission_id(command).startswith(stem + "-")


def test_requirements_are_told_apart_by_commas():
    assert job_packages.requirements_in("a==1, b[x,y]>=2,<3,c ,/path/d.whl") == [
        "a==1",
        "b[x,y]>=2,<3",
        "c",
        "/path/d.whl",
    ]
    assert job_packages.words(["a,b", "c"]) == ["a", "b", "c"]


def test_extras_are_those_of_pyproject(tmp_path):
    (tmp_path / "pyproject.toml").write_text(
        '[project]\nname = "My.Project"\n[project.optional-dependencies]\n'
        'gpu = ["jax[cuda12]==1", "my_project[Log-s]"]\nlog_s = ["rich", "my-project[gpu]"]\neval = ["rich", "lm"]\n'
    )
    of = functools.partial(job_packages.requirements_of_extras, str(tmp_path))
    assert of([]) == [] and of(["eval"]) == ["rich", "lm"]
    assert of(["gpu", "eval"]) == ["jax[cuda12]==1", "rich", "lm"]
    with pytest.raises(UserError, match="--extra gpus: .*pyproject.toml has no such extra; did you mean 'gpu'"):
        of(["gpus"])
    with pytest.raises(UserError, match="--extra gpu: expected it in .*No such file"):
        job_packages.requirements_of_extras(str(tmp_path / "none"), ["gpu"])


def reserved(text: str) -> dict:
    return ray_run._reserved(ray_run.parse([*text.split(), "--", "true"])[0])


def test_what_is_reserved_for_the_command():
    assert reserved("") == {}
    assert reserved("--tpu v4-8") == {"entrypoint_resources": {"TPU-v4-8-head": 1, "TPU": 4}}
    assert reserved("--tpu v5e-8") == {"entrypoint_resources": {"TPU-v5litepod-8-head": 1, "TPU": 8}}
    assert reserved('--entrypoint-resources {"a":1} --tpu v6e-1 --entrypoint-num-gpus 2 --entrypoint-memory 5') == {
        "entrypoint_num_gpus": 2.0,
        "entrypoint_memory": 5,
        "entrypoint_resources": {"a": 1.0, "TPU-v6e-1-head": 1, "TPU": 1},
    }
    with pytest.raises(UserError, match="--tpu and --entrypoint_resources: both ask for TPU"):
        reserved('--tpu v4-8 --entrypoint_resources {"TPU":4}')


def test_a_working_directory_that_is_too_large(tmp_path):
    with open(tmp_path / "model.bin", "wb") as file:
        file.truncate(600 * 1024**2)
    with pytest.raises(UserError, match="holds 600 MiB.*at most 512 MiB.*model.bin 600 MiB"):
        job.check_size(str(tmp_path))
    (tmp_path / ".gitignore").write_text("*.bin\n")
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    job.check_size(str(tmp_path))
