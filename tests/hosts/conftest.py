import pytest

from tests.hosts.hosts import Hosts
from tests.hosts.ray_on_hosts import RayOnHosts
from tests.hosts.training import prepare


@pytest.fixture(scope="session")
def ray(tmp_path_factory):
    """A head and three workers: two for a training, and one in reserve. Who takes a worker away brings another."""
    scratch = tmp_path_factory.mktemp("ray")
    with Hosts(4, scratch) as hosts:
        yield RayOnHosts(hosts, workers=3, scratch=scratch)


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    """A store with all that comes before the training of `experiment.py`."""
    store = tmp_path_factory.mktemp("prepared") / "store"
    prepare(store)
    return store
