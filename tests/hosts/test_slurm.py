"""The batch script of `infra/` under a real Slurm of two nodes."""

import os
import sys
from datetime import datetime
from pathlib import Path

import pytest

from tests.hosts import slurm as slurm_on_hosts
from tests.hosts.hosts import ROOT, Hosts, impossible
from tests.hosts.slurm import Slurm
from tests.hosts.training import SCRIPT, TrainingFiles

reason = impossible() or slurm_on_hosts.impossible()
pytestmark = [pytest.mark.torture, pytest.mark.skipif(bool(reason), reason=str(reason))]
JOB = ROOT / "infra" / "slurm" / "job.sh"


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    with Hosts(3, tmp_path_factory.getbasetemp()) as hosts:
        yield Slurm(hosts, nodes=2, scratch=tmp_path_factory.mktemp("slurm"))


def submit(slurm: Slurm, training: TrainingFiles) -> str:
    """The training as a job."""
    env = {
        "MARIN_SFT_PREFIX": str(training.store),
        "MARIN_SFT_TOKENS": str(training.store.parent),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "CHECKPOINT": "1000",
    }
    return slurm.submit(training.store / "job.out", str(JOB), "python", str(SCRIPT), env=env)


def test_a_job_succeeds_and_leaves_nothing(slurm, prepared, tmp_path):
    training = TrainingFiles(prepared, tmp_path / "store")
    job = slurm.end_of(submit(slurm, training))
    output = (training.store / "job.out").read_text()
    assert (job["JobState"], job["ExitCode"]) == ("COMPLETED", "0:0"), output
    assert training.digest()
    (committed,) = training.directory.glob("commits/*.json")
    took = datetime.fromisoformat(job["EndTime"]).timestamp() - committed.stat().st_mtime
    print(f"\nthe job ends {took:.0f} s after its training")
    assert took < 20, output
    assert slurm.processes() == []
    assert [*tmp_path.glob("*token*")] == []


def test_a_job_whose_time_is_up_leaves_a_checkpoint_to_go_on_from(slurm, prepared, tmp_path):
    training = TrainingFiles(prepared, tmp_path / "store")
    first = submit(slurm, training)
    training.await_step(1, 20)
    slurm.run("scancel", "--signal=TERM", "--batch", first)  # as --signal=B:TERM@120 does
    job = slurm.end_of(first)
    output = (training.store / "job.out").read_text()
    assert (job["JobState"], job["ExitCode"]) == ("FAILED", "143:0"), output
    kept = training.checkpoint(1)
    assert 20 <= kept == training.steps(1)[-1], output
    assert slurm.processes() == []
    job = slurm.end_of(submit(slurm, training))
    assert job["ExitCode"] == "0:0", (training.store / "job.out").read_text()
    assert training.metrics(2)[:kept] == training.metrics(1), "no step is taken twice"
