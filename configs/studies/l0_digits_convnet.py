"""L0 gates on a convnet's channels and neurons: the network that is left on handwritten digits, and its error.

python -m experiments.study --config=configs/studies/l0_digits_convnet.py --workdir=runs/l0_digits_convnet

MEASURED
"""

from ml_collections import ConfigDict

from sparsejax.training import default_config


def get_config() -> ConfigDict:
    """The methods; fields of the base may be changed from the command line: --config.base.steps=2000."""
    study = ConfigDict()
    study.title = "Handwritten digits, LeNet-5 of 16 and 32 channels, L0"
    study.base = base()
    study.sparsities = (0.5, 0.8, 0.95)
    study.seeds = 5
    study.tuning = ConfigDict({"learning_rates": ()})  # one rate for all
    study.metric, study.lower = "test_accuracy", False
    study.architecture = True
    study.methods = ConfigDict(
        {
            "dense": {"changes": {}},
            "l0": {"changes": {"method": "l0"}, "penalties": PENALTIES},
            "l0_target": {"changes": {"method": "l0"}},  # a Lagrangian that meets the sparsity
        }
    )
    study.order, study.orderings = ("dense", "l0", "l0_target"), ()  # at sparsities that differ a little
    return study


#: Of a weight: near the three sparsities, by one run of another seed on four fifths of the training split.
PENALTIES = (5e-7, 1.4e-6, 2.5e-6)


def base() -> ConfigDict:
    """What all methods share."""
    config = default_config("lenet")
    config.steps, config.eval_every = 2000, 2000
    config.learning_rate = 0.003
    config.gates, config.gate_learning_rate = "neurons", 0.1
    config.checkpoint_every = 0
    return config
