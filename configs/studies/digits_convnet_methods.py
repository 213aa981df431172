"""Test accuracy of a LeNet-5 style convnet on handwritten digits at 95 % sparsity: dense, SET, RigL and GMP.

python -m experiments.study --config=configs/studies/digits_convnet_methods.py --workdir=runs/digits_convnet_methods
"""

from ml_collections import ConfigDict

from experiments.config.fields import default_config
from experiments.study.options import default_study

_ERK = "erdos_renyi_kernel"
METHODS = {
    "dense": {},
    "static": {"method": "static", "distribution": _ERK},
    "set": {"method": "set", "distribution": _ERK},
    "rigl": {"method": "rigl", "distribution": _ERK},
    "gmp_global": {"method": "gmp", "distribution": "global"},
}


def get_config() -> ConfigDict:
    """The grid; fields of the base may be changed from the command line: --config.base.steps=4000."""
    base = default_config("lenet")
    base.steps, base.checkpoint_every = 2000, 0
    study = default_study(base, METHODS)
    study.title = "Handwritten digits, LeNet-5 style convnet (31 k parameters)"
    study.sparsities = (0.95,)
    study.tuning.learning_rates, study.tuning.sparsity = (0.003, 0.01, 0.02), 0.95
    study.orderings = (("set", "static"), ("rigl", "set"), ("gmp_global", "rigl"))
    return study
