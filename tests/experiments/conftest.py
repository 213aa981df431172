"""What the tests of the runner share: the data, prepared once."""

import pytest


@pytest.fixture(scope="package")
def data_dir(tmp_path_factory):
    """A directory of prepared data sets."""
    return str(tmp_path_factory.mktemp("data"))
