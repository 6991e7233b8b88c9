import gc
import os
import signal
import sys
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.object_stores import gcs, prefix, s3  # noqa: F401

settings.register_profile("untimed", deadline=None)  # a slow machine fails no test
settings.load_profile("untimed")


@pytest.fixture(scope="session", autouse=True)
def interrupts_count() -> None:
    """A shell's background job ignores SIGINT, and so would all that it starts."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def compiled_programs_are_kept_here(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Not in the user's cache."""
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(tmp_path_factory.mktemp("jax"))


@pytest.fixture(scope="session", autouse=True)
def processes_started_here_import_no_torch() -> None:
    """transformers and datasets import it where it is installed: seconds for each process. This one may need it."""
    import datasets  # noqa: F401
    import transformers  # noqa: F401

    os.environ["USE_TORCH"] = "0"


@pytest.fixture(scope="module", autouse=True)
def compiled_programs_go() -> Iterator[None]:
    """What JAX compiled for a module is mapped into memory until it is dropped, and a process may have so many maps."""
    yield
    if "jax" in sys.modules:
        import jax

        jax.clear_caches()
        gc.collect()
