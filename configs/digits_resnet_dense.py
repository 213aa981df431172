"""Dense, a small ResNet (three blocks, 16 to 64 channels), handwritten digits.

python -m experiments.train --config=configs/digits_resnet_dense.py --workdir=runs/digits_resnet_dense

Measured, as a population of 3 seeds that took 115 s on 2 cores, one of them busy with other work:
test accuracy 98.3 ± 0.7 % (mean and 95 % interval); 0.0 % of the prunable weights are zero.
FLOPs beside the dense network: training 1.000×, inference 1.000×.
"""

from ml_collections import ConfigDict

from experiments.config.fields import default_config


def get_config() -> ConfigDict:
    """The numbers of this run; the rest is `default_config`."""
    config = default_config("resnet")
    config.steps = 1000
    config.augment = "digits_shift"
    config.learning_rate = 0.01
    return config
