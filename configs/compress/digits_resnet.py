"""Half of the multiply-adds of a small ResNet go, residual width included, handwritten digits.

python -m experiments.compress --config=configs/compress/digits_resnet.py --workdir=runs/compress_digits_resnet

Not measured yet: only tiny runs were made, to see that it works end to end.
"""

from ml_collections import ConfigDict

from sparsejax.training import default_compression, default_config


def get_config() -> ConfigDict:
    """The dense run is `configs/digits_resnet_dense.py`; fine-tuning is half as long."""
    base = default_config("resnet")
    base.steps = 2000
    base.augment = "digits_shift"
    base.learning_rate = 0.01
    return default_compression(base)
