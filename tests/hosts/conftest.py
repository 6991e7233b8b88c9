import pytest

from tests.hosts.hosts import Hosts
from tests.hosts.ray_on_hosts import RayOnHosts
from tests.hosts.training import Training, prepare


@pytest.fixture(scope="session")
def ray(tmp_path_factory):
    """A head and three workers: two for a training, and one in reserve. Who takes a worker away brings another."""
    with Hosts(4, tmp_path_factory.getbasetemp()) as hosts:
        yield RayOnHosts(hosts, workers=3, scratch=tmp_path_factory.mktemp("ray"))


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    """A store with all that comes before the training of `experiment.py`."""
    store = tmp_path_factory.mktemp("prepared") / "store"
    prepare(store)
    return store


@pytest.fixture(scope="session")
def undisturbed(ray, prepared, tmp_path_factory) -> str:
    """The digest of the model of a training that nothing happens to."""
    training = Training(ray, prepared, tmp_path_factory.mktemp("undisturbed") / "store")
    return training.finish()
