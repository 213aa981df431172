"""Test accuracy of a LeNet-5 style convnet on handwritten digits at 95 % sparsity: dense, SET, RigL and GMP.

python -m experiments.study --config=configs/studies/digits_convnet_methods.py --workdir=runs/digits_convnet_methods
"""

from ml_collections import ConfigDict

from experiments.config.fields import default_config

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
    study = ConfigDict()
    study.title = "Handwritten digits, LeNet-5 style convnet (31 k parameters)"
    study.base = default_config("lenet")
    study.base.steps = 2000
    study.base.checkpoint_every = 0
    study.sparsities = (0.95,)
    study.seeds = 5
    study.tuning = ConfigDict(
        {
            "learning_rates": (0.003, 0.01, 0.02),
            "seed": 100,
            "seeds": 2,
            "sparsity": 0.95,
            "train_split": "train[:80%]",
            "test_split": "train[80%:]",
        }
    )
    study.metric = "test_accuracy"
    study.lower = False
    study.methods = ConfigDict({name: {"changes": changes} for name, changes in METHODS.items()})
    study.order = tuple(METHODS)
    study.orderings = (("set", "static"), ("rigl", "set"), ("gmp_global", "rigl"))
    return study
