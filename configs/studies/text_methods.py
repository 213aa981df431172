"""Bits per byte of a small GPT on Python source text, at 80, 90 and 95 % sparsity, method by method.

python -m experiments.study --config=configs/studies/text_methods.py --workdir=runs/text_methods

Measured: 4,635 s on one of 2 cores; dense 2.454 ± 0.021, and at 90 % uniform GMP 2.645 ± 0.005, SET 2.693 ± 0.037,
static 2.743 ± 0.051, RigL 2.758 ± 0.049 (mean and 95 % interval of 3 seeds; all of it in docs/results.md).
"""

from ml_collections import ConfigDict

from experiments.config.fields import default_config
from experiments.study.grid import EXPECTED, method_grid
from experiments.study.options import default_study

# Dense networks with about as many parameters as the sparse ones keep, embedding and norms included.
SMALL = {
    0.8: {"width": 32, "mlp_dim": 152},
    0.9: {"width": 24, "mlp_dim": 160},
    0.95: {"width": 24, "mlp_dim": 104},
}

# FLOPs of a sparse network relative to the dense one; the head and the attention products are not pruned.
COMPUTE = {0.8: 0.4, 0.9: 0.325, 0.95: 0.288}


def get_config() -> ConfigDict:
    """The grid; fields of the base may be changed from the command line: --config.base.steps=2000."""
    shared = base()
    study = default_study(shared, method_grid(shared.get_ref("steps"), SMALL, COMPUTE))
    study.title = "Python source text, byte-level GPT with 98 k prunable weights"
    study.sparsities = (0.8, 0.9, 0.95)
    study.seeds = 3
    study.metric, study.lower = "bits_per_byte", True
    # One rate for all: of 0.003, 0.01, 0.02 the best for 800 dense steps. Candidates would be compared on these.
    study.tuning.seeds = 1
    study.tuning.train_split, study.tuning.test_split = "train[:85%]", "train[85%:86%]"
    study.orderings = EXPECTED
    return study


def base() -> ConfigDict:
    """What all methods share: the model, the data, the optimizer and the times of mask updates."""
    config = default_config("gpt")
    config.dataset = "python_text"
    config.test_split = "test[:20%]"
    config.window = 64
    config.batch_size = 16
    config.steps = 1500
    config.eval_every = 750
    config.learning_rate = 0.01
    config.clip_norm = 1.0
    config.update_every = 20
    config.checkpoint_every = 750
    return config
