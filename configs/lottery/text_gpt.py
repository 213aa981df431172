"""Lottery tickets of a byte-level GPT on Python source text, rewound to step 50, all layers pruned together, against
re-initialisation and random masks, 8 seeds.

python -m experiments.lottery --config=configs/lottery/text_gpt.py --workdir=runs/lottery_text_gpt

Measured: 1,693 s on one core of a 2-core CPU that others shared. Bits per byte dense 3.130 ± 0.020; at 40 % left the
ticket 3.069 ± 0.013, re-initialised 3.186 ± 0.018, random 3.185 ± 0.014; at 16 % 3.083 ± 0.011, 3.254 ± 0.016 and
3.290 ± 0.015 (mean and 95 % interval of 8 seeds).
"""

from ml_collections import ConfigDict

from experiments.config.fields import default_config
from experiments.lottery.options import default_lottery


def get_config() -> ConfigDict:
    """The study; its base is one dense training run."""
    study = default_lottery(default_config("gpt"))
    study.title = "Lottery tickets, Python source text, a byte-level GPT, rewound to step 50"
    study.base.population = 8
    study.base.dataset = "python_text"
    study.base.test_split = "test[:5%]"
    study.base.window = 64
    study.base.batch_size = 16
    study.base.steps = 500
    study.base.learning_rate = 0.005  # the best of 0.002, 0.005 and 0.01 for a dense network of another seed
    study.base.clip_norm = 1.0
    study.base.eval_every = 100
    study.base.warmup_steps = study.base.get_ref("steps") // 10
    study.base.checkpoint_every = 250
    study.levels = 2
    study.fraction = 0.6  # about four rounds of 20 % at a time: 40, 16 % left
    study.rewind_step = study.base.get_ref("steps") // 10
    study.distribution = "global"
    study.metric, study.lower = "bits_per_byte", True
    return study
