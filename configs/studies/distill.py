"""Pruning with a teacher against pruning alone: bits per byte of a small GPT on Python code at equal sparsity.

python -m experiments.study --config=configs/studies/distill.py --workdir=runs/distill

The GPT is pretrained (1,500 steps, 2.45 bits per byte), then pruned by magnitude over 300 steps of fine-tuning; its
teacher is itself before that.

Measured: 1,881 s on one core of a 2-core CPU that other jobs shared; bits per byte at 80, 90, 95 % sparsity with the
teacher 2.634 ± 0.003, 2.919 ± 0.013, 3.248 ± 0.020, without 2.671 ± 0.008, 2.973 ± 0.017, 3.284 ± 0.027 (mean and 95 %
interval of 5 seeds, which differ in the order of the examples); dense fine-tuning 2.428 ± 0.004.
"""

from ml_collections import ConfigDict

from experiments.config.fields import default_config
from experiments.study.options import default_study

METHODS = {
    "dense": {},
    "prune": {"method": "gmp"},
    "prune_distil": {"method": "gmp", "teacher": "pretrained"},
}


def get_config() -> ConfigDict:
    """The methods; fields of the base may be changed from the command line: --config.base.steps=2000."""
    study = default_study(base(), METHODS)
    study.title = "Python code, byte-level GPT with 98 k prunable weights"
    study.pretrain = pretrain()
    study.sparsities = (0.8, 0.9, 0.95)
    study.metric, study.lower = "bits_per_byte", True
    study.orderings = (("prune_distil", "prune"),)
    return study


def pretrain() -> ConfigDict:
    """The teacher, with which the students begin."""
    config = _shared()
    config.steps, config.eval_every = 1500, 750
    config.learning_rate = 0.01
    return config


def base() -> ConfigDict:
    """What both share: a few hundred steps, the cubic schedule and a third of the steps after it."""
    config = _shared()
    config.init_from = "pretrained"
    config.steps, config.eval_every = 300, 300
    config.learning_rate = 0.003
    steps = config.get_ref("steps")
    config.begin_step, config.end_step, config.update_every = steps // 15, steps * 2 // 3, 10
    return config


def _shared() -> ConfigDict:
    config = default_config("gpt")
    config.dataset = "python_text"
    config.test_split = "test[:20%]"
    config.window, config.batch_size = 64, 16
    config.clip_norm = 1.0
    config.checkpoint_every = 0
    return config
