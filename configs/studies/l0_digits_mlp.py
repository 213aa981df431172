"""L0 gates on the pixels and neurons of LeNet-300-100: the network that is left on handwritten digits, and its error.

python -m experiments.study --config=configs/studies/l0_digits_mlp.py --workdir=runs/l0_digits_mlp

Measured: 197 s on one core of a 2-core CPU that others shared, 5 seeds. Dense 6.8 ± 0.5 % error; λ left 49.3, 20.0 and
4.0 % of the weights with 6.7 ± 0.8, 7.8 ± 0.9 and 11.4 ± 1.0 %; the targets of 50, 80 and 95 % came to 49.9, 80.0 and
95.0 % with 6.7 ± 0.8, 6.8 ± 0.7 and 7.4 ± 1.0 %.
"""

from ml_collections import ConfigDict

from experiments.config.fields import default_config
from experiments.study.options import default_study

#: Of a weight: near the three sparsities, by one run of another seed on four fifths of the training split.
PENALTIES = (8e-7, 3.5e-6, 8e-6)
METHODS = {
    "dense": {},
    "l0": {"changes": {"method": "l0"}, "penalties": PENALTIES},
    "l0_target": {"method": "l0"},  # a Lagrangian that meets the sparsity
}


def get_config() -> ConfigDict:
    """The methods; fields of the base may be changed from the command line: --config.base.steps=2000."""
    study = default_study(base(), METHODS)
    study.title = "Handwritten digits, LeNet-300-100, L0"
    study.sparsities = (0.5, 0.8, 0.95)
    study.architecture = True
    return study


def base() -> ConfigDict:
    """What all methods share."""
    config = default_config("mlp")
    config.steps, config.eval_every = 2000, 1000
    config.learning_rate = 0.005
    config.gates, config.gate_learning_rate = "neurons", 0.1
    config.checkpoint_every = 0
    return config
