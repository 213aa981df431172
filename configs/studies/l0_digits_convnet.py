"""L0 gates on a convnet's channels and neurons: the network that is left on handwritten digits, and its error.

python -m experiments.study --config=configs/studies/l0_digits_convnet.py --workdir=runs/l0_digits_convnet

Measured: 730 s on one core of a 2-core CPU that others shared, 5 seeds. Dense 4.1 ± 0.9 % error; λ left 54.0, 32.0 and
12.9 % of the weights with 4.6 ± 0.8, 4.7 ± 1.3 and 5.3 ± 1.3 %; the targets of 50, 80 and 95 % came to 50.3, 80.3 and
95.0 % with 4.5 ± 0.4, 4.6 ± 0.8 and 7.6 ± 2.0 %.
"""

from ml_collections import ConfigDict

from experiments.config.fields import default_config
from experiments.study.options import default_study

#: Of a weight; the sparsities that they come to are in the table. Guessed from runs of half as many steps.
PENALTIES = (2e-7, 6e-7, 1.2e-6)
METHODS = {
    "dense": {},
    "l0": {"changes": {"method": "l0"}, "penalties": PENALTIES},
    "l0_target": {"method": "l0"},  # a Lagrangian that meets the sparsity
}


def get_config() -> ConfigDict:
    """The methods; fields of the base may be changed from the command line: --config.base.steps=2000."""
    study = default_study(base(), METHODS)
    study.title = "Handwritten digits, LeNet-5 of 16 and 32 channels, L0"
    study.sparsities = (0.5, 0.8, 0.95)
    study.architecture = True
    return study


def base() -> ConfigDict:
    """What all methods share."""
    config = default_config("lenet")
    config.steps, config.eval_every = 4000, 4000
    steps = config.get_ref("steps")
    config.begin_step, config.end_step = (
        steps // 20,
        steps // 2,
    )  # gates need the other half to come after the target
    config.learning_rate = 0.003
    config.gates, config.gate_learning_rate = "neurons", 0.1
    config.checkpoint_every = 0
    return config
