"""LeNet-300-100 on handwritten digits: dense, or at 95 % sparsity by one of several methods.

python -m experiments.train --config=configs/digits_mlp.py:rigl --workdir=runs/digits_mlp_rigl

Measured, 2026-11-28, one run of a population of 5 seeds (`--config.population=5`), 2 cores that other work kept
busy, all included; test accuracy with its 95 % interval (`configs/studies/digits_methods.py` has 8 seeds, and
learning rates of each method's own); 95.0 % of the prunable weights are zero but for dense; FLOPs are relative to the
dense network's:

| method | test accuracy | time | training FLOPs | inference FLOPs |
| --- | --- | --- | --- | --- |
| dense | 93.4 ± 0.3 % | 105 s | 1.000× | 1.000× |
| gmp | 91.9 ± 1.1 % | 137 s | 0.309× | 0.050× |
| rigl | 92.7 ± 0.7 % | 152 s | 0.052× | 0.050× |
| set | 92.0 ± 0.7 % | 144 s | 0.050× | 0.050× |
| static | 91.7 ± 1.2 % | 108 s | 0.050× | 0.050× |
| snip | 92.7 ± 1.2 % | 110 s | 0.050× | 0.050× |

All were tuned alike: 3 learning rates × 2 weight decays, 3 seeds each, on the last 300 training images.
"""

from ml_collections import ConfigDict

from experiments.config.checks import choice
from experiments.config.fields import default_config

METHODS = {
    "dense": {},
    "gmp": {"sparsity": 0.95, "distribution": "global", "learning_rate": 0.001},
    "rigl": {"sparsity": 0.95, "distribution": "erdos_renyi_kernel"},
    "set": {"sparsity": 0.95, "distribution": "erdos_renyi_kernel"},
    "static": {"sparsity": 0.95, "distribution": "erdos_renyi_kernel"},
    "snip": {"sparsity": 0.95, "distribution": "global"},
}


def get_config(method: str = "rigl") -> ConfigDict:
    """The numbers of this run; the rest is `default_config`."""
    choice(method, METHODS, "method")
    config = default_config()
    config.update({"method": method, **METHODS[method]})
    return config
