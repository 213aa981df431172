"""RigL and SET on the digits at three sparsities, three seeds each.

python -m experiments.sweep --sweep=configs/sweeps/digits_sparsities.py --workdir=runs/sparsities --workers=2
python -m experiments.report runs/sparsities
"""

import itertools
from collections.abc import Iterator

from ml_collections import ConfigDict

from experiments.config.fields import default_config


def get_sweep() -> Iterator[ConfigDict]:
    """One configuration a run."""
    for method, sparsity, seed in itertools.product(("rigl", "set"), (0.9, 0.95, 0.98), range(3)):
        config = default_config()
        config.method, config.sparsity, config.seed = method, sparsity, seed
        config.distribution = "erdos_renyi_kernel"
        config.steps = 2000
        yield config
