"""A byte-level GPT (2 layers of 64) on Python source text: dense, or at 90 % sparsity.

python -m experiments.train --config=configs/text_gpt.py:rigl --workdir=runs/text_gpt_rigl

Measured as populations of 3 seeds on 2 cores, one of them busy with other work; bits per byte on held-out files are
the mean and 95 % interval; 90.0 % of the prunable weights are zero but for dense; FLOPs are beside the dense network's:

| method | bits per byte | time | training FLOPs | inference FLOPs |
| --- | --- | --- | --- | --- |
| dense | 2.63 ± 0.03 | 131 s | 1.000× | 1.000× |
| gmp | 2.80 ± 0.04 | 144 s | 0.510× | 0.325× |
| rigl | 2.85 ± 0.03 | 162 s | 0.333× | 0.325× |
| set | 2.79 ± 0.01 | 222 s | 0.325× | 0.325× |
"""

from ml_collections import ConfigDict

from experiments.config.checks import choice
from experiments.config.fields import default_config

METHODS = {
    "dense": {},
    "gmp": {"sparsity": 0.9, "distribution": "global"},
    "rigl": {"sparsity": 0.9, "distribution": "erdos_renyi_kernel"},
    "set": {"sparsity": 0.9, "distribution": "erdos_renyi_kernel"},
}


def get_config(method: str = "rigl") -> ConfigDict:
    """The numbers of this run; the rest is `default_config`."""
    choice(method, METHODS, "method")
    config = default_config("gpt")
    config.dataset = "python_text"
    config.test_split = "test[:20%]"
    config.window = 64
    config.batch_size = 16
    config.steps = 1000
    config.eval_every = 250
    config.clip_norm = 1.0
    config.update_every = 20
    config.update({"method": method, **METHODS[method]})
    return config
