"""In which order to prune and to round a byte-level GPT (115 k parameters, Python's text): six orders, three networks.

python -m experiments.orders --config=configs/orders/text_gpt.py --workdir=runs/orders_gpt

Measured 2026-11-28, one of 2 busy cores, 35 minutes; bits a byte lost to dense (2.449), with a paired 95 % bootstrap
over 3 networks and 384 windows, and bytes of the file against float32:

| order | 50 %, 8 bits, 4.6x smaller | 80 %, 8 bits, 6.6x | 80 %, 4 bits, 7.7x |
| --- | --- | --- | --- |
| SparseGPT, then GPTQ | 0.03 [0.02, 0.03] | 0.41 [0.38, 0.45] | 0.45 [0.41, 0.48] |
| GPTQ, then SparseGPT | 0.04 [0.03, 0.04] | 0.96 [0.85, 1.09] | 1.19 [1.03, 1.37] |
| jointly | 0.02 [0.02, 0.03] | 0.42 [0.39, 0.45] | 0.42 [0.38, 0.45] |
| SparseGPT, QAT on the masks | 0.01 [0.01, 0.02] | 0.22 [0.19, 0.24] | 0.24 [0.22, 0.26] |
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
