"""Magika pruned in one shot: every method at 50 to 90 % and n:m, five draws of 512 files, 3,000 files to test on.

pip install --no-deps magika
python -m experiments.one_shot --config=configs/one_shot/magika.py --workdir=runs/magika

`:weighted` compares only what was chosen by such a table, at 80 and 90 %, with 300 steps without labels after it.
`:convolution` compares every method at 80 and 90 %, the head left dense: of its 512 inputs there are as many as
calibration files, so that what is solved for them fits those files alone.
`:whole` prunes the head too, by the best method, on 1,440 files a draw: two and a half for each of its inputs.
`:small` is one draw and 600 files at 80 and 90 %, for a look.
"""

from ml_collections import ConfigDict

from experiments.config.checks import choice
from experiments.one_shot.options import default_study

VARIANTS = {
    "full": {"per_kind": 400},  # 250 a kind are 5,508 files here: 52 too few
    "weighted": {
        "per_kind": 400,
        "methods": ("wanda", "alps", "alps, rows weighted"),
        "levels": ("80 %", "90 %"),
        "reconstruct_steps": 300,
    },
    "convolution": {
        "per_kind": 400,
        "ignore": ("head/kernel",),
        "levels": ("80 %", "90 %"),
    },
    "whole": {
        "per_kind": 600,
        "calibration_items": 1440,
        "methods": ("alps, rows weighted",),
        "levels": ("80 %", "90 %"),
    },
    "small": {
        "methods": ("magnitude", "wanda", "wanda+swaps+resolve", "sparsegpt", "alps", "alps, rows weighted"),
        "levels": ("80 %", "90 %"),
        "draws": 1,
        "test_items": 600,
    },
}


def get_config(variant: str = "full") -> ConfigDict:
    """The numbers of this study; the rest is `default_study`."""
    choice(variant, VARIANTS, "variant")
    config = default_study("magika")
    config.update(VARIANTS[variant])
    return config
