"""In which order to prune and to round a convnet on handwritten digits: every order, three networks.

python -m experiments.orders --config=configs/orders/digits_convnet.py --workdir=runs/orders_digits

Measured 2026-11-28, one of 2 busy cores, about 12 minutes; points of accuracy against dense (96.2 %) with a paired 95 %
bootstrap over 3 networks and 360 images, and bytes of the file against float32:

| order | 50 %, 8 bits, 5.1x smaller | 80 %, 8 bits, 8.2x | 80 %, 4 bits, 10.2x |
| --- | --- | --- | --- |
| SparseGPT, then GPTQ | -0.1 [-1.1, 0.9] | -3.8 [-6.7, -1.5] | -4.4 [-7.8, -1.7] |
| GPTQ, then SparseGPT | -0.4 [-1.3, 0.6] | -10.4 [-13.5, -7.3] | -10.4 [-17.3, -4.7] |
| jointly | -0.1 [-1.1, 0.9] | -4.0 [-6.4, -1.9] | -3.7 [-5.6, -1.9] |
| SparseGPT, QAT on the masks | -0.1 [-1.3, 1.1] | -3.1 [-5.3, -1.1] | -3.1 [-5.3, -1.3] |
"""

from ml_collections import ConfigDict

from experiments.orders.options import default_orders


def get_config() -> ConfigDict:
    """The numbers of this study; the rest is `default_orders`."""
    config = default_orders("convnet")
    config.update({"calibration_items": 1024, "batch_size": 64, "test_items": 360, "tune_steps": 300})
    config.base.update({"method": "dense", "steps": 1000, "checkpoint_every": 0})
    return config
