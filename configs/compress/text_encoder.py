"""Half of the heads and FFN units of a small encoder go; it tells Python code, prose, tables and C headers apart.

python -m experiments.compress --config=configs/compress/text_encoder.py --workdir=runs/compress_text_encoder

2-core CPU, one core used, which other jobs shared: 1,127 s. One seed: test accuracy 31.9 % dense, 31.9 % pruned, 31.9 %
fine-tuned and shrunk, where the commonest class has 25.3 %: 400 steps teach it too little to tell what pruning costs.
16.78 → 8.39 million multiply-adds a window, 125,517 → 75,917 parameters. Measured when importances
and sensitivity still looked at the first windows of a split alone, not all over it.
"""

from ml_collections import ConfigDict

from sparsejax.training import default_compression, default_config


def get_config() -> ConfigDict:
    """Two layers of width 64 on windows of bytes."""
    base = default_config("encoder")
    base.dataset = "python_kinds"
    base.test_split = "test[:25%]"
    base.window = 64
    base.batch_size = 16
    base.steps = 1000
    base.learning_rate = 0.003
    base.clip_norm = 1.0
    options = default_compression(base)
    options.seeds = 5
    options.importances = ("taylor",)
    options.budget = "channel_ratio"
    options.kinds = ("neuron", "head")
    return options
