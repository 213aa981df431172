"""All searchers on a ResNet-20, handwritten digits: channels of 12 groups at half of the multiply-adds.

python -m experiments.search --config=configs/search/digits_resnet.py --workdir=runs/search_digits_resnet
"""

from ml_collections import ConfigDict

from experiments.config.fields import default_config
from experiments.search.options import default_search


def get_config() -> ConfigDict:
    """Three stages of three blocks, as the CIFAR network; a quarter of its width."""
    base = default_config("resnet")
    base.model.stages = (3, 3, 3)
    base.model.width = 8
    base.steps = 600
    base.checkpoint_every = 0
    base.augment = "digits_shift"
    base.learning_rate = 0.01
    options = default_search(base)
    options.kinds = ("channel", "residual")
    options.evaluations, options.batches = 120, 4
    return options
