"""Group importance against the importance of one layer, random choice and uniform width: a convnet, handwritten digits.

Ordering 5 of the references: from the same eight dense networks, at the same multiply-adds and widths.

python -m experiments.compress --config=configs/compress/digits_convnet_importance.py --workdir=runs/compress_importance

Not measured yet: only tiny runs were made, to see that it works end to end.
"""

from ml_collections import ConfigDict

from sparsejax.training import default_compression, default_config


def get_config() -> ConfigDict:
    """Every importance has the same fine-tuning, short enough that what was kept still matters."""
    base = default_config("lenet")
    base.steps = 2000
    base.checkpoint_every = 0
    options = default_compression(base)
    options.seeds = 8
    options.importances = ("l2", "l1", "producer_l1", "random", "position")
    options.orderings = (
        ("l2", "producer_l1"),
        ("l1", "producer_l1"),
        ("l2", "random"),
        ("l2", "position"),
    )
    options.ratio = 0.8
    options.fine_tune.steps = 200
    options.sensitivity = ()
    return options
