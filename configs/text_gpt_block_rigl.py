"""A byte-level GPT (4 layers of 512) on Python source text, 90 % of its blocks of 64×64 dead: trained on live blocks.

python -m experiments.train --config=configs/text_gpt_block_rigl.py:blocks --workdir=runs/text_gpt_block_rigl
"""

from ml_collections import ConfigDict

from experiments.config.checks import choice
from experiments.config.fields import default_config

FORMS = {
    "dense": {"method": "dense"},
    "masked": {"method": "rigl", "pattern": "configs.text_gpt_block_rigl:block_64"},
    "blocks": {"method": "rigl"},
}


def get_config(form: str = "blocks") -> ConfigDict:
    """The numbers of this run; the rest is `default_config`."""
    choice(form, FORMS, "form")
    config = default_config("gpt")
    config.dataset = "python_text"
    config.test_split = "test[:5%]"
    config.window = 128
    config.batch_size = 4
    config.model.width = 512
    config.model.depth = 4
    config.model.heads = 8
    config.model.mlp_dim = 2048
    config.model.sparse_compute = "blocks" if form == "blocks" else "dense"
    config.learning_rate = 0.001
    config.steps = 600
    config.eval_every = 100
    config.eval_batch_size = 64
    config.clip_norm = 1.0
    config.update_every = 20
    config.sparsity = 0.9
    config.update(FORMS[form])
    return config


def block_64() -> "object":
    """The pattern of the masked form."""
    from sparsejax.patterns import Block

    return Block(64, 64)


def block_32() -> "object":
    """The same for a model of half the width: `--config.pattern=configs.text_gpt_block_rigl:block_32`."""
    from sparsejax.patterns import Block

    return Block(32, 32)
