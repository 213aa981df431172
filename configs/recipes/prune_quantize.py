"""Weights of a byte-level GPT pruned by SparseGPT, then rounded to four bits by GPTQ; Python source.

python -m experiments.compress --config=configs/recipes/prune_quantize.py --workdir=runs/prune_quantize
"""

from ml_collections import ConfigDict

from experiments.compress.recipe.options import add_stage, default_recipe
from experiments.config.fields import default_config


def get_config() -> ConfigDict:
    """Half of the weights go, the others in four bits."""
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
    add_stage(options, "int4", "quantize", bits=4, group_size=32)
    return options
