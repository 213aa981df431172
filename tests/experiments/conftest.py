"""What the tests of the commands share: the data, prepared once, and programs that are compiled once."""

import pytest

from tests.compile_cache import shared_programs


@pytest.fixture(autouse=True, scope="package")
def programs(tmp_path_factory):
    """A directory of compiled programs."""
    directory = tmp_path_factory.mktemp("programs")
    with shared_programs(directory):
        yield directory


@pytest.fixture(scope="package")
def data_dir(tmp_path_factory):
    """A directory of prepared data sets."""
    return str(tmp_path_factory.mktemp("data"))
