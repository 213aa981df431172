"""Movement against magnitude pruning while a small GPT moves from code to English: bits per byte at 3 to 70 % left.

python -m experiments.study --config=configs/studies/movement.py --workdir=runs/movement

The GPT is pretrained on Python code and then fine-tuned, and pruned, on docstrings and help topics.

Measured: 2,072 s on one core of a 2-core CPU that others shared, 5 seeds. Bits per byte at 3, 10, 15, 50 and 70 % left:
magnitude 3.742, 3.149, 2.943, 2.600, 2.572; movement 3.493, 3.120, 2.983, 2.660, 2.596; soft movement 3.427, 3.082,
2.966 (at 14.5 %), 2.619, 2.573; dense 2.564. Movement wins at 10 % and below, magnitude above.
"""

from ml_collections import ConfigDict

from experiments.config.fields import default_config
from experiments.study.options import default_study

#: Of soft movement, one for each sparsity: between the nine of one run of another seed.
PENALTIES = (370.0, 165.0, 125.0, 24.0, 9.0)
METHODS = {
    "dense": {},
    "magnitude": {"method": "gmp"},
    "movement": {"method": "movement"},
    "soft_movement": {"changes": {"method": "soft_movement"}, "penalties": PENALTIES},
}


def get_config() -> ConfigDict:
    """The methods; fields of the base may be changed from the command line: --config.base.steps=2000."""
    study = default_study(base(), METHODS)
    study.title = "English text, byte-level GPT pretrained on code, 98 k prunable weights"
    study.pretrain = pretrain()
    study.sparsities = (0.97, 0.9, 0.85, 0.5, 0.3)  # 3, 10, 15, 50 and 70 % left
    study.metric, study.lower = "bits_per_byte", True
    study.orderings = (("movement", "magnitude"), ("soft_movement", "magnitude"))
    return study


def pretrain() -> ConfigDict:
    """Code: what the network knows before it is moved."""
    config = _shared()
    config.dataset = "python_text/code"
    config.steps, config.eval_every = 1500, 750
    config.learning_rate = 0.01
    return config


def base() -> ConfigDict:
    """What all methods share: English, a few hundred steps, the cubic schedule and a third of the steps after it."""
    config = _shared()
    config.dataset = "python_text/prose"
    config.init_from = "pretrained"
    config.steps, config.eval_every = 300, 300
    config.learning_rate = 0.003
    steps = config.get_ref("steps")
    config.begin_step, config.end_step, config.update_every = steps // 15, steps * 2 // 3, 10
    config.score_learning_rate = 0.05
    return config


def _shared() -> ConfigDict:
    config = default_config("gpt")
    config.test_split = "test[:20%]"
    config.window, config.batch_size = 64, 16
    config.clip_norm = 1.0
    config.checkpoint_every = 0
    return config
