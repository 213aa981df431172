"""In which order to prune and to round a byte-level GPT (115 k parameters, Python's text): six orders, three networks.

python -m experiments.orders --config=configs/orders/text_gpt.py --workdir=runs/orders_gpt
"""

from ml_collections import ConfigDict

from experiments.orders.options import default_orders


def get_config() -> ConfigDict:
    """The numbers of this study; the rest is `default_orders`."""
    config = default_orders("gpt")
    config.update({"calibration_items": 384, "batch_size": 32, "test_items": 384, "tune_steps": 150})
    config.tune_batch = 16
    config.orders = tuple(name for name in config.orders if "Wanda" not in name)
    config.in_8_bits = ("embedding/embedding",)  # the head too: they are tied
    base = config.base
    base.update({"method": "dense", "dataset": "python_text", "window": 64, "batch_size": 16, "steps": 1000})
    base.update({"eval_every": 500, "clip_norm": 1.0, "test_split": "test[:5%]", "checkpoint_every": 0})
    base.model.update({"width": 64, "depth": 2, "heads": 4, "mlp_dim": 256})
    return config
