"""A training on two hosts. When one is lost, the step continues on others by itself and ends in the same bits.

ROUNDS sets how often a host is killed, SEED the dice.
"""

import os
import random
import statistics
import time

import pytest

from tests.hosts.hosts import impossible, pid_inside
from tests.hosts.training import Training

pytestmark = [pytest.mark.torture, pytest.mark.skipif(bool(reason := impossible()), reason=str(reason))]
ROUNDS = int(os.environ.get("ROUNDS", "2"))
SEED = os.environ.get("SEED", "0")
STEPS = 100
MOST = {"a host is killed": (10, 30)}  # seconds, medians on two idle cores: to the next claim, and to training again


@pytest.fixture(scope="module")
def times():
    """Seconds from a loss to the next claim, and to the next step of training, by what was lost."""
    times: dict[str, list[tuple[float, float]]] = {}
    yield times
    for what, rounds in times.items():
        claims, steps = zip(*rounds, strict=True)
        print(
            f"\n{what}: {len(rounds)} rounds; new claim after {statistics.median(claims):.1f} s (at most "
            f"{max(claims):.1f}), training again after {statistics.median(steps):.1f} s (at most {max(steps):.1f})"
        )
        most_to_claim, most_to_step = MOST.get(what, (float("inf"), float("inf")))
        assert statistics.median(claims) <= most_to_claim and statistics.median(steps) <= most_to_step


def goes_on(training, lost: int, since: float, times: list) -> None:
    """Wait until the attempt after `lost` trains; note how long that took since the loss."""
    kept = training.checkpoint(lost)
    training.await_claim(lost + 1)
    claimed = time.monotonic() - since
    training.await_step(lost + 1, kept + 1)
    times.append((claimed, time.monotonic() - since))


@pytest.mark.parametrize("number", range(ROUNDS))
def test_a_host_is_killed(ray, prepared, undisturbed, times, tmp_path, number):
    dice = random.Random(f"kill {SEED} {number}")
    training = Training(ray, prepared, tmp_path / "store")
    training.await_step(1, dice.randint(1, STEPS - 20))
    victim = dice.choice(training.hosts(1))
    killed = time.monotonic()
    victim.kill()
    goes_on(training, 1, killed, times.setdefault("a host is killed", []))
    ray.replace(victim)
    assert training.finish() == undisturbed
    assert training.steps(2) == [*range(1, STEPS + 1)]
    assert ray.placement_groups() == []


def test_a_host_is_killed_before_the_first_step(ray, prepared, undisturbed, times, tmp_path):
    training = Training(ray, prepared, tmp_path / "store")
    victim = training.await_hosts(1)[1]
    killed = time.monotonic()
    victim.kill()
    goes_on(training, 1, killed, times.setdefault("a host is killed before the first step", []))
    ray.replace(victim)
    assert training.finish() == undisturbed
    assert ray.placement_groups() == []


def test_the_first_rank_s_host_is_killed_after_the_last_step(ray, prepared, undisturbed, tmp_path):
    """While it writes the model, or when it has."""
    training = Training(ray, prepared, tmp_path / "store")
    training.await_step(1, STEPS)
    victim = training.hosts(1)[0]
    victim.kill()
    ray.replace(victim)
    assert training.finish() == undisturbed
    assert ray.placement_groups() == []


def test_more_hosts_are_killed_than_there_are_in_reserve(ray, prepared, undisturbed, tmp_path):
    """The training waits, says for what, and goes on when a host joins."""
    training = Training(ray, prepared, tmp_path / "store")
    training.await_step(1, 30)
    victims = training.hosts(1)
    for victim in victims:
        victim.kill()
    training.await_log(2, "waits for 2 free hosts, each with CPU 1; the cluster has 1 of this size")
    for victim in victims:
        ray.replace(victim)
    assert training.finish() == undisturbed
    assert ray.placement_groups() == []


def test_a_host_is_cut_off_in_silence(ray, prepared, undisturbed, times, tmp_path):
    training = Training(ray, prepared, tmp_path / "store")
    training.await_step(1, 30)
    victim = random.choice(training.hosts(1))
    cut = time.monotonic()
    victim.cut()
    goes_on(training, 1, cut, times.setdefault("a host is cut off", []))
    ray.replace(victim)
    assert training.finish() == undisturbed
    assert ray.placement_groups() == []


def test_the_process_that_holds_the_claim_is_killed(ray, prepared, undisturbed, times, tmp_path):
    training = Training(ray, prepared, tmp_path / "store")
    training.await_step(1, 30)
    owner = training.await_claim(1)["owner"]
    assert owner["host"] == ray.head.name
    killed = time.monotonic()
    ray.head.run("kill", "-9", str(owner["pid"]))
    goes_on(training, 1, killed, times.setdefault("the claim's process is killed", []))
    assert training.finish() == undisturbed
    assert ray.placement_groups() == []


def test_the_launch_is_killed_and_started_again(ray, prepared, undisturbed, times, tmp_path):
    training = Training(ray, prepared, tmp_path / "store")
    training.await_step(1, 30)
    os.kill(pid_inside(training.launch), 9)
    training.launch.wait()
    killed = time.monotonic()
    training.start()
    goes_on(training, 1, killed, times.setdefault("the launch is killed and started again", []))
    assert training.finish() == undisturbed
    assert ray.placement_groups() == []
