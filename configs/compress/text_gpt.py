"""Half of the heads and FFN units of a byte-level GPT go, Python source text.

python -m experiments.compress --config=configs/compress/text_gpt.py --workdir=runs/compress_text_gpt

Not measured yet: only tiny runs were made, to see that it works end to end.
"""

from ml_collections import ConfigDict

from sparsejax.training import default_compression, default_config


def get_config() -> ConfigDict:
    """Half of the heads and of the FFNs' units; the dense run is `configs/text_gpt_dense.py`."""
    base = default_config("gpt")
    base.dataset = "python_text"
    base.test_split = "test[:20%]"
    base.window = 128
    base.batch_size = 16
    base.steps = 1500
    base.learning_rate = 0.01
    base.clip_norm = 1.0
    options = default_compression(base)
    options.importances = ("taylor",)
    options.budget = "channel_ratio"
    options.kinds = ("neuron", "head")
    return options
