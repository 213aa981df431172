"""RigL on blocks of 128×128, 80 % of them dead, a byte-level GPT of 85 M parameters, C4: trained on live blocks alone.

python -m experiments.train --config=configs/c4_gpt_block_rigl.py --workdir=runs/c4_gpt_block_rigl

For 16 TPU chips (v5e-16) or as many GPUs, one command a host; see docs/pods.md. Every device holds all live blocks
and multiplies its own part of the batch by the kernels of its hardware. Prepare the data once: tfds build c4/en
--file_format=array_record (needs apache-beam and a cluster). NOT run here: compiled for v5e-16 and v6e-8 only.
Recipe: the GPT, optimizer and batch of configs/c4_gpt_gmp.py, laid out layer after layer, since stacks are not
compressed. U. Evci et al., Rigging the Lottery, arXiv:1911.11134, algorithm 1: drops at the half cosine from 0.3, to
three quarters of the steps. Blocks, and a change every 100 steps, are chosen here and not theirs.
"""

from ml_collections import ConfigDict

from experiments.config.fields import default_config


def get_config() -> ConfigDict:
    """The numbers of this run; the rest is `default_config`."""
    config = default_config("gpt")
    config.dataset = "c4/en"
    config.test_split = "validation"
    config.streaming = True
    config.window = 2048
    config.model.update({"width": 768, "depth": 12, "heads": 12, "mlp_dim": 3072, "sparse_compute": "blocks"})
    config.compute_dtype = "bfloat16"

    config.batch_size = 512
    config.accumulate = 32  # one example a chip at once, as in c4_gpt_gmp
    config.steps = 100_000
    config.eval_every = 1000
    config.eval_batch_size = 512
    config.checkpoint_every = 5000
    config.learning_rate = 6e-4
    config.warmup_steps = config.get_ref("steps") // 100
    config.weight_decay = 0.1
    config.decay_all = False
    config.clip_norm = 1.0

    config.method = "rigl"
    config.sparsity = 0.8
    config.distribution = "uniform"
    config.update_every = 100
    config.block = 128

    config.mesh.data = -1
    return config
