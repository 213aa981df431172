"""A byte-level GPT cut in width and depth, then distilled from the original, then INT4; Python source.

python -m experiments.compress --config=configs/recipes/slim_distil_int4.py --workdir=runs/slim_distil_int4
"""

from ml_collections import ConfigDict

from experiments.compress.recipe.options import add_stage, default_recipe
from experiments.config.fields import default_config


def get_config() -> ConfigDict:
    """Two of eight blocks go, then a third of what is left in width: half of the parameters in all."""
    base = default_config("gpt")
    base.dataset = "python_text"
    base.test_split = "test[:20%]"
    base.batch_size = 16
    base.model.depth, base.model.width, base.model.mlp_dim = 8, 32, 128
    base.steps = 600
    base.learning_rate = 0.005
    base.clip_norm = 1.0
    options = default_recipe(base)
    options.seeds = 3
    add_stage(options, "dense", "train")
    add_stage(options, "shallow", "depth", drop=2)
    add_stage(options, "narrow", "width", share=0.67)
    add_stage(options, "distilled", "distil", steps=300)
    add_stage(options, "int4", "quantize", bits=4)
    return options
