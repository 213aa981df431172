"""L0 gates on the inputs of a convnet's layers: the network that is left on handwritten digits, and its error.

python -m experiments.study --config=configs/studies/l0_digits_convnet.py --workdir=runs/l0_digits_convnet

Measured: 100 s on one core of a shared 2-core CPU, 5 seeds. Dense 4.5 ± 0.7 % error; the first λ left 61.2 % of the
weights with 5.6 ± 2.2 %; the other two removed the whole network, at every seed.
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
        {"dense": {"changes": {}}, "l0": {"changes": {"method": "l0"}, "penalties": PENALTIES}}
    )
    study.order, study.orderings = ("dense", "l0"), ()
    return study


#: Of a weight. Guesses: the first left 61 %, the others nothing.
PENALTIES = (1e-6, 1e-5, 4e-5)


def base() -> ConfigDict:
    """What all methods share; the first layer, which reads one channel, has no gate."""
    config = default_config("lenet")
    config.steps, config.eval_every = 1000, 1000
    config.learning_rate = 0.003
    config.gate_learning_rate = 0.1
    config.dense_layers = ("conv_0/*",)
    config.checkpoint_every = 0
    return config
