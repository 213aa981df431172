"""Half of the multiply-adds of a LeNet-5 style network go, handwritten digits.

python -m experiments.compress --config=configs/compress/digits_convnet.py --workdir=runs/compress_digits_convnet

2-core CPU, one core used, which other jobs shared: 127 s. Test accuracy in %, mean and 95 % interval of 5 seeds:
95.9 ± 0.8 dense, 71.5 ± 27.4 pruned, 95.4 ± 1.1 fine-tuned and shrunk; 109,224 → 53,882
multiply-adds, 31,294 → 15,159 parameters.
"""

from ml_collections import ConfigDict

from experiments.compress.options import default_compression
from experiments.config.fields import default_config


def get_config() -> ConfigDict:
    """The dense run is `configs/digits_convnet.py:dense`; fine-tuning is half as long."""
    base = default_config("lenet")
    base.steps = 2000
    options = default_compression(base)
    options.seeds = 5
    options.ratio = 0.5
    return options
