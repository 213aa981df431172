"""Gradual magnitude pruning (global) to 90 %, a byte-level GPT (2 layers of 64), Python source text.

python -m experiments.train --config=configs/text_gpt_gmp.py --workdir=runs/text_gpt_gmp

Measured, as a population of 3 seeds that took 144 s on 2 cores, one of them busy with other work:
2.80 ± 0.04 bits per byte on held-out files (mean and 95 % interval); 90.0 % of the prunable weights are zero.
FLOPs beside the dense network: training 0.510×, inference 0.325×.
"""

from ml_collections import ConfigDict

from experiments.config.fields import default_config


def get_config() -> ConfigDict:
    """The numbers of this run; the rest is `default_config`."""
    config = default_config("gpt")
    config.dataset = "python_text"
    config.test_split = "test[:20%]"
    config.window = 64
    config.batch_size = 16
    config.steps = 1000
    config.eval_every = 250
    config.learning_rate = 0.01
    config.clip_norm = 1.0
    config.update_every = 20
    config.begin_step = 100
    config.method = "gmp"
    config.sparsity = 0.9
    config.distribution = "global"
    return config
