"""CoFi on an encoder with its dense self as the teacher, what it removes cut out, INT8; kinds of Python files.

python -m experiments.compress --config=configs/recipes/cofi_int8.py --workdir=runs/cofi_int8
"""

from ml_collections import ConfigDict

from experiments.compress.recipe.options import add_stage, default_recipe
from experiments.config.fields import default_config


def get_config() -> ConfigDict:
    """Half of the weights of two layers of width 64."""
    base = default_config("encoder")
    base.dataset = "python_kinds"
    base.test_split = "test[:25%]"
    base.window = 64
    base.batch_size = 16
    base.steps = 1000
    base.learning_rate = 0.003
    base.clip_norm = 1.0
    options = default_recipe(base)
    options.seeds = 3
    add_stage(options, "dense", "train")
    add_stage(
        options, "gated", "learn_masks", method="cofi", sparsity=0.5, steps=1000, teacher="dense", weight=0.5
    )
    add_stage(options, "small", "shrink")
    add_stage(options, "tuned", "fine_tune", steps=300)
    add_stage(options, "int8", "quantize", bits=8)
    return options
