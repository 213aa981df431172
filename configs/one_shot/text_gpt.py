"""A byte-level GPT of 3.3 M parameters on Python's text, trained here and pruned in one shot, three draws of windows.

python -m experiments.one_shot --config=configs/one_shot/text_gpt.py --workdir=runs/one_shot_gpt

`:hour` is the same network, trained half as long, with fewer methods, levels and windows: an hour of one core.
`:prose`, `:few` change the calibration data: docstrings in place of code; 16 windows in place of 256. `:small` is a
GPT of 116 k parameters for a look; `:large` one of 85 M for a GPU.
"""

from ml_collections import ConfigDict

from experiments.config.checks import choice
from experiments.one_shot.options import default_study

SIZES = {
    "small": {"width": 64, "depth": 2, "heads": 4, "mlp_dim": 256},
    "medium": {"width": 256, "depth": 4, "heads": 8, "mlp_dim": 1024},
    "large": {"width": 768, "depth": 12, "heads": 12, "mlp_dim": 3072},
}
VARIANTS = {
    "full": {},
    "hour": {
        "methods": ("magnitude", "wanda", "ria", "wanda+swaps", "wanda+swaps+resolve", "sparsegpt", "alps"),
        "levels": ("50 %", "70 %", "2:4"),
        "test_items": 300,
        "calibration_items": 128,
    },
    "prose": {"part": "prose"},
    "few": {"calibration_items": 16, "batch_size": 4},
    "small": {
        "methods": ("magnitude", "wanda", "wanda+swaps+resolve", "sparsegpt", "alps"),
        "levels": ("50 %", "70 %", "2:4"),
        "draws": 1,
        "test_items": 256,
        "calibration_items": 128,
    },
    "large": {"batch_size": 32},
}


def get_config(variant: str = "full") -> ConfigDict:
    """The numbers of this study; the rest is `default_study`."""
    choice(variant, VARIANTS, "variant")
    config = default_study("gpt")
    config.update({"draws": 3, "calibration_items": 256, "batch_size": 16, "test_items": 1000})
    config.update(VARIANTS[variant])
    base = config.base
    base.update({"method": "dense", "dataset": "python_text", "window": 128, "batch_size": 16, "steps": 2000})
    base.update({"eval_every": 250, "clip_norm": 1.0, "test_split": "test[:5%]"})
    base.model.update(SIZES[variant if variant in SIZES else "medium"])
    if variant == "hour":
        base.steps = 1000
    if variant == "small":
        base.update({"steps": 500, "window": 64})
    return config
