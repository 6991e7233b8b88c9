"""`python infra/make.py`: the committed files are what it writes, and it writes no file with a gap."""

import re
import subprocess
import sys

import pytest
import yaml

from tests.infra.launcher_files import INFRA, ROOT, make

EXAMPLES = make.examples()
GCP = [
    "gcp",
    "--project",
    "my-project",
    "--zone",
    "us-central2-b",
    "--bucket",
    "my-bucket",
    "--image",
    "me/marin-sft:1",
]
RAYJOB = ["kuberay", "--image", "me/marin-sft:1", "--prefix", "gs://my-bucket/x"]


@pytest.mark.parametrize("name", EXAMPLES)
def test_what_is_committed_is_what_is_written(name):
    assert (INFRA / name).read_text() == EXAMPLES[name], "run `make infra`, and commit what it writes"


def test_no_other_file_lies_among_those_that_are_written():
    folders = {(INFRA / name).parent for name in EXAMPLES}
    assert {str(path.relative_to(INFRA)) for folder in folders for path in folder.iterdir()} == set(EXAMPLES)


def test_a_file_of_ones_own_has_what_was_asked_and_no_gap(tmp_path):
    own = tmp_path / "mine.yaml"
    options = ["--tpu", "v4-128", "v5e-16", "v6e", "--capacity", "reserved", "--max-slices", "2", "--name", "mine"]
    command = [sys.executable, "infra/make.py", *GCP, *options, "-o", str(own)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stdout.strip() == str(own), done.stderr
    assert not re.search(r"<[A-Z]+>", own.read_text())
    content = yaml.safe_load(own.read_text())
    assert content["cluster_name"] == "mine"
    assert content["provider"]["region"] == "us-central2" and content["provider"]["project_id"] == "my-project"
    sizes = [f"tpu-v6e-{n}" for n in (1, 4, 8, 16, 32, 64, 128, 256)]
    types = content["available_node_types"]
    assert list(types) == ["head", "cpu", "tpu-v4-128", "tpu-v5litepod-16", *sizes]
    assert types["tpu-v4-128"]["max_workers"] == 2
    assert types["tpu-v4-128"]["node_config"]["schedulingConfig"] == {"reserved": True}


def test_the_command_of_a_job_keeps_its_words(capsys):
    make.main([*RAYJOB, "--tpu", "v4-8", "--", "python", "mine.py", "--run_only", '["a b"]'])
    content = yaml.safe_load(capsys.readouterr().out)
    assert content["spec"]["entrypoint"] == """python mine.py --run_only '["a b"]'"""


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["gcp"], "required: --project, --zone, --bucket, --tpu, --image"),
        ([*GCP], "required: --tpu"),
        ([*GCP, "--tpu", "v4-7"], "got 'v4-7', but there is no such slice; expected v4-8\n"),
        ([*GCP, "--tpu", "v4-12"], "got 'v4-12', but there is no such slice; expected v4-8 or v4-16\n"),
        ([*GCP, "--tpu", "v5e-12"], "got 'v5e-12', but there is no such slice; expected v5e-8 or v5e-16\n"),
        ([*GCP, "--tpu", "v9"], "got 'v9', expected a type such as v4-128, or a generation: v4, v5p, v5e, v6e"),
        ([*GCP, "--tpu", "v4", "--project", "<PROJECT>"], "--project: got '<PROJECT>'"),
        ([*GCP, "--tpu", "v4", "--zone", "us-central2"], "--zone: got 'us-central2', expected a zone"),
        ([*GCP, "--tpu", "v4", "--bucket", "gs://mine"], "--bucket: got 'gs://mine', expected a bucket, without gs://"),
        ([*GCP, "--tpu", "v4", "--max-slices", "0"], "--max-slices: got '0', expected a whole number >= 1"),
        ([*RAYJOB, "--image", "<IMAGE>", "--", "ls"], "--image: got '<IMAGE>'"),
        ([*RAYJOB, "--prefix", "store", "--", "ls"], "--prefix: got 'store', expected a path that all nodes see"),
        ([*RAYJOB], "required: command"),
    ],
)
def test_what_is_missing_or_wrong_is_named_and_nothing_written(arguments, told, tmp_path, capsys):
    arguments = arguments[:1] + ["-o", str(tmp_path / "own")] + arguments[1:]
    with pytest.raises(SystemExit) as ended:
        make.main(arguments)
    assert ended.value.code == 2 and told in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_no_example_names_somebodys_project_bucket_or_token():
    for name, content in EXAMPLES.items():
        for place in re.findall(r"(?:gs|s3)://(\S+?)/", content):
            assert place in ("<BUCKET>", ""), name
        for account in re.findall(r"\S+@(\S+)\.iam", content):
            assert account == "<PROJECT>", name
        for token in re.findall(r"RAY_AUTH_TOKEN(?:_PATH)?[=:] ?(\S+)", content):
            assert token == "null" or token.startswith("${MARIN_SFT_TOKENS"), (name, token)
