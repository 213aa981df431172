"""Gradual magnitude pruning to 80 %, a byte-level GPT of 85 M parameters, C4: fully sharded and tensor parallel.

python -m experiments.train --config=configs/c4_gpt_gmp.py --workdir=runs/c4_gpt_gmp

For 32 TPU chips (v5p-64 or v5e-32) or 4 machines of 8 GPUs, one command a host; see docs/pods.md. Prepare the data
once: tfds build c4/en --file_format=array_record (needs apache-beam and a cluster). NOT run here: compiled
for v5e-16 and v6e-8 only.
Recipe: sizes of GPT-2 small (12 layers of 768) over 2048 bytes. T. Brown et al., arXiv:2005.14165, table 2.1 and
appendix B: learning rate 6e-4, warm-up, cosine, weight decay 0.1, gradients clipped at 1, half a million tokens a
batch (here 1 M bytes). Adam's β₂ is optax's 0.999, theirs 0.95. Pruning after E. Frantar et al., Scaling Laws for
Sparsely-Connected Foundation Models, arXiv:2309.08520: gradual and cubic. That it fills the middle half of the
steps, with masks every 100, is chosen here and was not checked against that paper.
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
    config.model.update({"width": 768, "depth": 12, "heads": 12, "mlp_dim": 3072, "scan": True})
    config.compute_dtype = "bfloat16"

    config.batch_size = 512
    config.accumulate = (
        32  # one example a chip at once: attention's float32 scores of all 12 layers are 9 GB then
    )
    config.steps = 100_000
    config.eval_every = 1000
    config.eval_batch_size = 512
    config.checkpoint_every = 5000
    config.learning_rate = 6e-4
    config.warmup_steps = config.get_ref("steps") // 100
    config.weight_decay = 0.1
    config.decay_all = False
    config.clip_norm = 1.0

    config.method = "gmp"
    config.sparsity = 0.8
    config.distribution = "uniform"
    config.update_every = 100
    config.begin_step = config.get_ref("steps") // 4

    config.mesh.data = -1
    config.mesh.fsdp = 4
    config.mesh.tensor = 2
    return config
