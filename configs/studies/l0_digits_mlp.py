"""L0 gates on the inputs of LeNet-300-100's layers: the network that is left on handwritten digits, and its error.

python -m experiments.study --config=configs/studies/l0_digits_mlp.py --workdir=runs/l0_digits_mlp

Measured: 142 s on one core of a shared 2-core CPU, 5 seeds. Dense 6.8 ± 0.5 % error; λ left 50.1, 13.1 (one network of
five collapsed) and 0 % of the weights (all collapsed); the targets of 50, 80 and 95 % came to 50.0, 81.1 and 87.7 %,
with errors of 6.3 ± 0.6, 12.3 ± 2.4 and 28.2 ± 6.4 %. An earlier run with slower gates is in the README.
"""

from ml_collections import ConfigDict

from sparsejax.training import default_config


def get_config() -> ConfigDict:
    """The methods; fields of the base may be changed from the command line: --config.base.steps=2000."""
    study = ConfigDict()
    study.title = "Handwritten digits, LeNet-300-100, L0"
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


#: Of a weight. Guessed from a run with slower gates; only the first comes near its sparsity, the last removes all.
PENALTIES = (3e-6, 1e-5, 4e-5)


def base() -> ConfigDict:
    """What all methods share."""
    config = default_config("mlp")
    config.steps, config.eval_every = 2000, 1000
    config.learning_rate = 0.005
    config.gate_learning_rate = 0.1
    config.checkpoint_every = 0
    return config
