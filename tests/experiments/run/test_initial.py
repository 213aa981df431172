"""Arrays that another run left: read by path, cast, and refused where the model is another."""

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.errors import WorkdirError
from experiments.record import files
from experiments.run.initial import initial_batch_stats, initial_masks, initial_params, load_arrays
from experiments.run.population import Run

TEMPLATE = {"a": {"kernel": jnp.zeros((2, 3)), "bias": jnp.zeros(3)}}
ARRAYS = {"a/bias": np.arange(3.0), "a/kernel": np.arange(6.0).reshape(2, 3)}
RUN = Run(3, 0.5, 0.1)


def test_arrays_come_back_by_path_in_the_template_s_types(tmp_path):
    files.write_arrays(tmp_path / "params.npz", ARRAYS)
    found = load_arrays(tmp_path / "params.npz", TEMPLATE)
    assert found["a"]["kernel"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert found["a"]["bias"].dtype == np.float32


def test_a_member_finds_its_own_directory_and_a_single_run_the_top_one(tmp_path):
    files.write_arrays(tmp_path / "params.npz", ARRAYS)
    assert initial_params(str(tmp_path), RUN, TEMPLATE)["a"]["bias"].tolist() == [0, 1, 2]
    (tmp_path / RUN.name).mkdir()
    files.write_arrays(tmp_path / RUN.name / "params.npz", {**ARRAYS, "a/bias": np.ones(3)})
    assert initial_params(str(tmp_path), RUN, TEMPLATE)["a"]["bias"].tolist() == [1, 1, 1]
    masks = {"a/bias": np.array(True), "a/kernel": np.ones((2, 3), bool)}
    files.write_arrays(tmp_path / RUN.name / "masks.npz", masks)
    found = initial_masks(str(tmp_path), RUN, TEMPLATE)
    assert found["a"]["bias"].shape == ()
    assert found["a"]["kernel"].dtype == bool


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"a/bias": np.zeros(3)}, r"of another model: they differ in a/kernel"),
        ({**ARRAYS, "b/kernel": np.zeros(1)}, r"they differ in b/kernel"),
        ({**ARRAYS, "a/bias": np.zeros(4)}, r"'a/bias' is \(4,\), here \(3,\)"),
    ],
)
def test_another_model_is_refused(tmp_path, arrays, says):
    files.write_arrays(tmp_path / "params.npz", arrays)
    with pytest.raises(WorkdirError, match=says):
        load_arrays(tmp_path / "params.npz", TEMPLATE)


def test_what_is_absent_or_damaged_is_refused(tmp_path):
    with pytest.raises(WorkdirError, match="give the workdir of a finished run"):
        load_arrays(tmp_path / "params.npz", TEMPLATE)
    (tmp_path / "params.npz").write_bytes(b"no zip")
    with pytest.raises(WorkdirError, match="cannot be read"):
        load_arrays(tmp_path / "params.npz", TEMPLATE)


def test_statistics_are_taken_over_where_there_are_any(tmp_path):
    template = {"norm": {"mean": jnp.zeros(2)}}
    assert initial_batch_stats(str(tmp_path), RUN, template) is template
    files.write_arrays(tmp_path / "batch_stats.npz", {"norm/mean": np.array([1.0, 2.0])})
    assert initial_batch_stats(str(tmp_path), RUN, template)["norm"]["mean"].tolist() == [1, 2]
