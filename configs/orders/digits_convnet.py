"""In which order to prune and to round a convnet on handwritten digits: every order, three networks.

python -m experiments.orders --config=configs/orders/digits_convnet.py --workdir=runs/orders_digits
"""

from ml_collections import ConfigDict

from experiments.orders.options import default_orders


def get_config() -> ConfigDict:
    """The numbers of this study; the rest is `default_orders`."""
    config = default_orders("convnet")
    config.update({"calibration_items": 1024, "batch_size": 64, "test_items": 360, "tune_steps": 300})
    config.base.update({"method": "dense", "steps": 1000, "checkpoint_every": 0})
    return config
