"""Test accuracy of LeNet-300-100 on handwritten digits at 90, 95 and 98 % sparsity, method by method.

python -m experiments.study --config=configs/studies/digits_methods.py --workdir=runs/digits_methods

Measured: 3,253 s on one core that other jobs shared; dense 0.935 ± 0.005, and at 95 % global GMP 0.931 ± 0.004,
SNIP 0.920 ± 0.009, RigL 0.919 ± 0.003, SET 0.917 ± 0.003, static 0.908 ± 0.006 (mean and 95 % interval of 8 seeds; all
of it in docs/results.md).
"""

from ml_collections import ConfigDict

from experiments.config.fields import default_config
from experiments.study.grid import EXPECTED, method_grid
from experiments.study.options import default_study

# Dense networks with about as many parameters as the sparse ones keep.
SMALL = {0.9: {"widths": (60, 20)}, 0.95: {"widths": (34, 16)}, 0.98: {"widths": (15, 12)}}


def get_config() -> ConfigDict:
    """The grid; fields of the base may be changed from the command line: --config.base.steps=2000."""
    shared = base()
    study = default_study(shared, method_grid(shared.get_ref("steps"), SMALL))
    study.title = "Handwritten digits, LeNet-300-100 (50,200 prunable weights)"
    study.sparsities = (0.9, 0.95, 0.98)
    study.seeds = 8
    study.tuning.learning_rates, study.tuning.seeds, study.tuning.sparsity = (0.001, 0.003, 0.01), 4, 0.95
    study.orderings = EXPECTED
    return study


def base() -> ConfigDict:
    """What all methods share: the model, the data, the optimizer and the times of mask updates."""
    config = default_config("mlp")
    config.steps = 3000
    config.learning_rate = 0.005
    config.checkpoint_every = 0
    return config
