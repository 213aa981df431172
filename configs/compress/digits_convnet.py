"""Half of the multiply-adds of a LeNet-5 style network go, handwritten digits.

python -m experiments.compress --config=configs/compress/digits_convnet.py --workdir=runs/compress_digits_convnet

2-core CPU, one core used, which other jobs shared: 120 s. One seed: test accuracy 96.7 % dense, 86.9 % pruned, 96.1 %
fine-tuned and shrunk; 109,224 → 53,882 multiply-adds, 31,294 → 15,159 parameters.
"""

from ml_collections import ConfigDict

from sparsejax.training import default_compression, default_config


def get_config() -> ConfigDict:
    """The dense run is `configs/digits_convnet_dense.py`; fine-tuning is half as long."""
    base = default_config("lenet")
    base.steps = 2000
    options = default_compression(base)
    options.seeds = 5
    options.ratio = 0.5
    return options
