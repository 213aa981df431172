"""A production network from its wheel to a file a seventeenth the size, without labels and without its training data.

python -m experiments.compress --config=configs/compress/magika.py --workdir=runs/magika

Needs the weights: pip install --no-deps magika. Pruned by ALPS, 300 steps towards its own dense outputs, then GPTQ to
4 bits.
"""

from ml_collections import ConfigDict

from experiments.compress.magika import default_magika


def get_config() -> ConfigDict:
    """80 % of the convolution's weights and half of the head's go."""
    return default_magika()
