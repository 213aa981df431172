"""The programs of these tests are compiled once."""

import pytest

from tests.compile_cache import shared_programs


@pytest.fixture(autouse=True, scope="package")
def programs(tmp_path_factory):
    """A directory of compiled programs."""
    with shared_programs(tmp_path_factory.mktemp("programs")):
        yield
