"""Half of the multiply-adds of a LeNet-5 style network go, handwritten digits.

python -m experiments.compress --config=configs/compress/digits_convnet.py --workdir=runs/compress_digits_convnet

Not measured yet: only tiny runs were made, to see that it works end to end.
"""

from ml_collections import ConfigDict

from sparsejax.training import default_compression, default_config


def get_config() -> ConfigDict:
    """The dense run is `configs/digits_convnet_dense.py`; fine-tuning is half as long."""
    base = default_config("lenet")
    base.steps = 2000
    options = default_compression(base)
    options.ratio = 0.5
    return options
