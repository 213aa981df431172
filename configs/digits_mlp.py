"""LeNet-300-100 on handwritten digits: dense, or at 95 % sparsity by one of several methods.

python -m experiments.train --config=configs/digits_mlp.py:rigl --workdir=runs/digits_mlp_rigl

Measured, one run, 2 cores that other work shared, all included; test accuracy is the mean and 95 % interval of 5
seeds (`configs/studies/digits_methods.py` has 8, and learning rates of each method's own; its intervals lie within
these); 95.0 % of the prunable weights are zero but for dense; FLOPs are relative to the dense network's:

| method | test accuracy | time | training FLOPs | inference FLOPs |
| --- | --- | --- | --- | --- |
| dense | 92.9 ± 0.7 % | 13 s | 1.000× | 1.000× |
| gmp | 92.1 ± 1.7 % | 24 s | 0.309× | 0.050× |
| rigl | 92.2 ± 0.3 % | 32 s | 0.052× | 0.050× |
| set | 91.9 ± 0.4 % | 33 s | 0.050× | 0.050× |
| static | 91.2 ± 1.5 % | 22 s | 0.050× | 0.050× |
| snip | 92.8 ± 1.0 % | 20 s | 0.050× | 0.050× |

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
