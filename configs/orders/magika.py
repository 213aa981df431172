"""In which order to prune and to round Magika's convolution: three draws of calibration files, no labels.

pip install --no-deps magika
python -m experiments.orders --config=configs/orders/magika.py --workdir=runs/orders_magika
python -m experiments.orders --config=configs/orders/magika.py:tuned --workdir=runs/orders_magika_tuned

The first trains nothing; the second compares, at 80 % zeros and 4 bits alone, what 60 steps towards the dense network's
own outputs give: before rounding, or with the grid in the forward pass.

Measured 2026-11-28 (the first; one of 2 busy cores, 300 files of 56 kinds, SHA-1 6a68088b): no order differs from
another; SparseGPT, then GPTQ at 50 % and 8 bits 5.7 times smaller at -0.9 points [-2.0, 0.0], 80 % and 4 bits 10.8
times at -1.3 [-2.7, -0.1]; with zlib 6.3 and 12.9 times. `:tuned` (16 minutes, files 14a595b4): -1.9 [-3.6, -0.7]
points untuned, -1.4 [-3.0, -0.3] tuned before rounding, -1.6 [-3.1, -0.3] on the grid, at 10.8 times.
"""

from ml_collections import ConfigDict

from experiments.config.checks import choice
from experiments.orders.options import default_orders

VARIANTS = {
    "given": {"orders": ("SparseGPT, then GPTQ", "GPTQ, then SparseGPT", "SparseGPT + GPTQ, jointly")},
    "tuned": {
        "orders": (
            "SparseGPT, then GPTQ",
            "SparseGPT, tuned, GPTQ",
            "SparseGPT, QAT, zeros kept",
            "SparseGPT, QAT, zeros free",
        ),
        "sparsities": (0.8,),
        "bits": (4,),
    },
}


def get_config(variant: str = "given") -> ConfigDict:
    """The numbers of this study; the rest is `default_orders`."""
    choice(variant, VARIANTS, "variant")
    config = default_orders("magika")
    config.update({"calibration_items": 64, "batch_size": 16, "test_items": 300, "per_kind": 150})
    config.update({"tune_steps": 60, "tune_batch": 8})
    # A head of 512 inputs has too few rows in so few files.
    config.in_8_bits = ("embed/embedding", "head/kernel")
    config.update(VARIANTS[variant])
    return config
