"""All searchers on a ViT of 6 layers, handwritten digits: single weights of 38 layers at 40 % of the weights.

python -m experiments.search --config=configs/search/digits_vit.py --workdir=runs/search_digits_vit
"""

from ml_collections import ConfigDict

from experiments.config.fields import default_config
from experiments.search.options import default_search


def get_config() -> ConfigDict:
    """Six layers of width 32; a site is a kernel, a level an equal number of weights."""
    base = default_config("vit")
    base.model.depth, base.model.width, base.model.mlp_dim = 6, 32, 128
    base.steps = 1500
    base.checkpoint_every = 0
    base.augment = "digits_shift"
    base.learning_rate = 0.002
    base.clip_norm = 1.0
    options = default_search(base)
    options.what, options.resource, options.share = "weights", "weights", 0.4
    options.steps, options.method = 3, "sparsegpt"
    options.evaluations, options.batches = 150, 4
    options.searchers = ("uniform", "random", "allocation", "allocation_in_rounds", "evopress", "amc")
    return options
