"""What the tests of the runner share: the data, prepared once and read once."""

import pathlib

import pytest

from experiments.data import loading


@pytest.fixture(scope="package")
def data_dir(tmp_path_factory):
    """A directory of prepared data sets."""
    return str(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="package", autouse=True)
def read_once(data_dir):
    """Hundreds of runs read the same digits, record by record: what was read from `data_dir` is kept.

    What other folders hold, which some tests damage, is read as ever; `tests/experiments/data` reads all of it anew.
    """
    read, known = loading._read, {}

    def kept(builder, split, keys, scale, window):
        if pathlib.Path(data_dir) not in pathlib.Path(builder.data_path).parents:
            return read(builder, split, keys, scale, window)
        what = (str(builder.data_path), str(split), keys, scale, window)
        if what not in known:
            known[what] = read(builder, split, keys, scale, window)
        return known[what]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loading, "_read", kept)
        yield
