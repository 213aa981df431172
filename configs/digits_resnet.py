"""A small ResNet (three blocks, 16 to 64 channels) on handwritten digits: dense, or at 95 % sparsity.

python -m experiments.train --config=configs/digits_resnet.py:rigl --workdir=runs/digits_resnet_rigl

Measured as populations of 3 seeds on 2 cores, one of them busy with other work; test accuracy is the mean and 95 %
interval; 95.0 % of the prunable weights are zero but for dense; FLOPs are beside the dense network's:

| method | test accuracy | time | training FLOPs | inference FLOPs |
| --- | --- | --- | --- | --- |
| dense | 98.3 ± 0.7 % | 115 s | 1.000× | 1.000× |
| gmp | 97.1 ± 0.4 % | 134 s | 0.388× | 0.076× |
| rigl | 96.3 ± 2.0 % | 243 s | 0.080× | 0.078× |
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
    config = default_config("resnet")
    config.steps = 1000
    config.augment = "digits_shift"
    config.update({"method": method, **METHODS[method]})
    return config
