"""In which order to prune and to round Magika's convolution: every order, three draws of calibration files, no labels.

pip install --no-deps magika
python -m experiments.orders --config=configs/orders/magika.py --workdir=runs/orders_magika
"""

from ml_collections import ConfigDict

from experiments.orders.options import default_orders


def get_config() -> ConfigDict:
    """The numbers of this study; the rest is `default_orders`."""
    config = default_orders("magika")
    config.update({"calibration_items": 128, "batch_size": 32, "test_items": 400, "tune_steps": 60})
    config.update({"tune_batch": 8, "per_kind": 150})
    # A head of 512 inputs has too few rows in so few files.
    config.in_8_bits = ("embed/embedding", "head/kernel")
    return config
