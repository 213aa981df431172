"""All searchers on a GPT of 8 layers, Python source text: heads and FFN units of 16 groups at half of the parameters.

python -m experiments.search --config=configs/search/text_gpt.py --workdir=runs/search_text_gpt
"""

from ml_collections import ConfigDict

from experiments.config.fields import default_config
from experiments.search.options import default_search


def get_config() -> ConfigDict:
    """Eight layers of width 32. At 300 steps and 0.75 nothing is told apart: half-trained layers are hardly used."""
    base = default_config("gpt")
    base.dataset = "python_text"
    base.test_split = "test[:5%]"
    base.window = 64
    base.batch_size = 16
    base.model.depth, base.model.width, base.model.mlp_dim = 8, 32, 128
    base.steps = 1500
    base.checkpoint_every = 0
    base.learning_rate = 0.005
    base.clip_norm = 1.0
    options = default_search(base)
    options.importance = "taylor"
    options.kinds = ("neuron", "head")
    options.resource, options.share = "parameters", 0.5
    options.evaluations, options.batches = 200, 2
    return options
