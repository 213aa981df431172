"""RigL at 90 %, Erdős–Rényi-Kernel, a byte-level GPT (2 layers of 64), Python source text.

python -m experiments.train --config=configs/text_gpt_rigl.py --workdir=runs/text_gpt_rigl

@MEASURED@
"""

from ml_collections import ConfigDict

from sparsejax.training import default_config


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
    config.method = "rigl"
    config.sparsity = 0.9
    config.distribution = "erdos_renyi_kernel"
    return config
