"""Weights of a byte-level GPT pruned by SparseGPT, distilled from the dense one inside the masks, then INT8; Python.

python -m experiments.compress --config=configs/recipes/prune_distil_int8.py --workdir=runs/prune_distil_int8
"""

from ml_collections import ConfigDict

from experiments.compress.recipe.options import add_stage, default_recipe
from experiments.config.fields import default_config


def get_config() -> ConfigDict:
    """Half of the weights go, the others in eight bits."""
    base = default_config("gpt")
    base.dataset = "python_text"
    base.test_split = "test[:20%]"
    base.batch_size = 16
    base.steps = 600
    base.learning_rate = 0.01
    base.clip_norm = 1.0
    options = default_recipe(base)
    options.seeds = 3
    add_stage(options, "dense", "train")
    add_stage(options, "pruned", "prune", method="sparsegpt", sparsity=0.5)
    add_stage(options, "distilled", "distil", steps=300)
    add_stage(options, "int8", "quantize", bits=8)
    return options
