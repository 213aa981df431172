"""Half of the heads and FFN units of a byte-level GPT go, Python source text.

python -m experiments.compress --config=configs/compress/text_gpt.py --workdir=runs/compress_text_gpt

2-core CPU, one core used, which other jobs shared: 623 s. Mean of 3 seeds: 2.82 bits per byte dense, 3.40 pruned, 2.82
fine-tuned and shrunk; 18.9 → 10.5 million multiply-adds a window, 116,480 → 66,880 parameters.
"""

from ml_collections import ConfigDict

from experiments.compress.options import default_compression
from experiments.config.fields import default_config


def get_config() -> ConfigDict:
    """Half of the heads and of the FFNs' units; the dense run is `configs/text_gpt.py:dense`."""
    base = default_config("gpt")
    base.dataset = "python_text"
    base.test_split = "test[:20%]"
    base.window = 128
    base.batch_size = 16
    base.steps = 600
    base.learning_rate = 0.01
    base.clip_norm = 1.0
    options = default_compression(base)
    options.seeds = 3
    options.importances = ("taylor",)
    options.budget = "channel_ratio"
    options.kinds = ("neuron", "head")
    return options
