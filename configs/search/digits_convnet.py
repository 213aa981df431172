"""All searchers on a LeNet-5 style network, handwritten digits: channels of 4 groups at half of the multiply-adds.

python -m experiments.search --config=configs/search/digits_convnet.py --workdir=runs/search_digits_convnet
"""

from ml_collections import ConfigDict

from experiments.config.fields import default_config
from experiments.search.options import default_search


def get_config() -> ConfigDict:
    """The dense run is `configs/digits_convnet.py:dense`, shorter; the loss sees four batches."""
    base = default_config("lenet")
    base.steps = 1000
    base.checkpoint_every = 0
    options = default_search(base)
    options.batches = 4
    return options
