"""All searchers on an encoder of 6 layers, kinds of Python files: single weights of 38 layers at 30 % of the weights.

python -m experiments.search --config=configs/search/text_encoder.py --workdir=runs/search_text_encoder
"""

from ml_collections import ConfigDict

from experiments.config.fields import default_config
from experiments.search.options import default_search


def get_config() -> ConfigDict:
    """Six layers of width 32; a site is a kernel, a level an equal number of its weights."""
    base = default_config("encoder")
    base.dataset = "python_kinds"
    base.test_split = "test[:25%]"
    base.window = 64
    base.batch_size = 16
    base.model.depth, base.model.width, base.model.mlp_dim = 6, 32, 128
    base.steps = 600
    base.checkpoint_every = 0
    base.learning_rate = 0.003
    base.clip_norm = 1.0
    options = default_search(base)
    options.what, options.resource, options.share = "weights", "weights", 0.3
    options.steps, options.method = 3, "wanda"
    options.evaluations, options.batches = 200, 4
    options.searchers = ("uniform", "random", "allocation", "allocation_in_rounds", "evopress", "amc")
    return options
