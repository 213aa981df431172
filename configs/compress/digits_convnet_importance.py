"""Group importance against the importance of one layer, random choice and uniform width: a convnet, handwritten digits.

Ordering 5 of the references: from the same eight dense networks, at the same multiply-adds and widths.

python -m experiments.compress --config=configs/compress/digits_convnet_importance.py --workdir=runs/compress_importance

2-core CPU, one core used, which other jobs shared: 634 s. 8 seeds; 109,224 → 21,749 multiply-adds, 31,294 → 5,609
parameters. Test accuracy in %, dense 96.1 ± 0.3; pruned, then fine-tuned: l2 31.7 ± 10.9, 93.5 ± 0.5; l1 29.0 ± 12.2,
93.3 ± 0.6; producer_l1 50.0 ± 11.8, 93.8 ± 1.3; random 34.7 ± 7.3, 89.9 ± 1.7; position 39.3 ± 10.8, 89.6 ± 1.0.
Ordering 5 does not show: fine-tuned, l2 is 0.3 ± 1.2 points below producer_l1 (not told apart; before, 18 ± 17 below).
"""

from ml_collections import ConfigDict

from experiments.compress.options import default_compression
from experiments.config.fields import default_config


def get_config() -> ConfigDict:
    """Every importance has the same fine-tuning, short enough that what was kept still matters."""
    base = default_config("lenet")
    base.steps = 1000
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
    options.fine_tune.steps = base.get_ref("steps") // 5
    options.sensitivity = ()
    return options
