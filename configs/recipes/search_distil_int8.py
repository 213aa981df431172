"""Channels of a small ResNet chosen by EvoPress at half of the multiply-adds, cut out, distilled, INT8; digits.

python -m experiments.compress --config=configs/recipes/search_distil_int8.py --workdir=runs/search_distil_int8
"""

from ml_collections import ConfigDict

from experiments.compress.recipe.options import add_stage, default_recipe
from experiments.config.fields import default_config


def get_config() -> ConfigDict:
    """The dense run is `configs/digits_resnet.py:dense`."""
    base = default_config("resnet")
    base.steps = 2000
    base.augment = "digits_shift"
    base.learning_rate = 0.01
    options = default_recipe(base)
    options.seeds = 3
    add_stage(options, "dense", "train")
    add_stage(options, "chosen", "search", kinds=("channel", "residual"), evaluations=100)
    add_stage(options, "small", "shrink")
    add_stage(options, "distilled", "distil", steps=1000)
    add_stage(options, "int8", "quantize", bits=8)
    return options
