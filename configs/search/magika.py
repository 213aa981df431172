"""Magika's three large tensors under a budget of bytes: every choice tried, so that searchers meet the true optimum.

pip install --no-deps magika
python -m experiments.search --config=configs/search/magika.py --workdir=runs/search_magika
"""

from ml_collections import ConfigDict

from experiments.search.magika import default_magika_search


def get_config() -> ConfigDict:
    """A file seventeen times smaller than float32."""
    return default_magika_search()
