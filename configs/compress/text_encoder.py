"""Half of the heads and FFN units of a small encoder go; it tells which standard library module a text is from.

python -m experiments.compress --config=configs/compress/text_encoder.py --workdir=runs/compress_text_encoder

Not measured yet: only tiny runs were made, to see that it works end to end.
"""

from ml_collections import ConfigDict

from sparsejax.training import default_compression, default_config


def get_config() -> ConfigDict:
    """Two layers of width 64 on windows of bytes."""
    base = default_config("encoder")
    base.dataset = "python_modules"
    base.batch_size = 32
    base.steps = 1500
    base.learning_rate = 0.003
    base.clip_norm = 1.0
    options = default_compression(base)
    options.importances = ("taylor",)
    options.budget = "channel_ratio"
    options.kinds = ("neuron", "head")
    return options
