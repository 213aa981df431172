"""A LeNet-5 style network on handwritten digits: dense, or at 95 % sparsity.

python -m experiments.train --config=configs/digits_convnet.py:rigl --workdir=runs/digits_convnet_rigl

Measured, one run, 2 cores that other work shared, all included; test accuracy is the mean and 95 % interval of 5
seeds; 95.0 % of the prunable weights are zero but for dense; FLOPs are beside the dense network's:

| method | test accuracy | time | training FLOPs | inference FLOPs |
| --- | --- | --- | --- | --- |
| dense | 95.9 ± 0.7 % | 27 s | 1.000× | 1.000× |
| gmp | 94.8 ± 1.5 % | 26 s | 0.386× | 0.108× |
| rigl | 93.6 ± 1.5 % | 37 s | 0.068× | 0.065× |

All were tuned alike: 3 learning rates, 2 seeds each, on the last 300 training images.
"""

from ml_collections import ConfigDict

from experiments.config.checks import choice
from experiments.config.fields import default_config

METHODS = {
    "dense": {},
    "gmp": {"sparsity": 0.95, "distribution": "global"},
    "rigl": {"sparsity": 0.95, "distribution": "erdos_renyi_kernel"},
}


def get_config(method: str = "rigl") -> ConfigDict:
    """The numbers of this run; the rest is `default_config`."""
    choice(method, METHODS, "method")
    config = default_config("lenet")
    config.steps = 2000
    config.update({"method": method, **METHODS[method]})
    return config
