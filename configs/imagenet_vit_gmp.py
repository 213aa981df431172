"""Gradual magnitude pruning to 90 %, ViT-S/16, ImageNet: the 90-epoch recipe of the plain ViT baselines.

python -m experiments.train --config=configs/imagenet_vit_gmp.py --workdir=runs/imagenet_vit_gmp

For 16 TPU chips (v5e-16: 4 hosts of 4) or 8 GPUs of 80 GB, one command a host; see docs/pods.md. Prepare the data
once: tfds build imagenet2012 --file_format=array_record. NOT run here: compiled for v5e-16 and v6e-8.
Recipe: L. Beyer et al., Better plain ViT baselines for ImageNet-1k, arXiv:2205.01580: batch 1024, 90 epochs, Adam
at 1e-3 with 10,000 steps of warm-up and a cosine, decoupled weight decay 1e-4 (here times the peak's inverse, as
optax multiplies it by the learning rate) on kernels alone, gradients clipped at 1, RandAugment (2, 10), mixup 0.2,
mean pooling, fixed sine positions. Their 76.5 % is the dense network's. Pruning as M. Zhu & S. Gupta,
arXiv:1710.01878, equation 1: cubic, here from a tenth to three quarters of the steps.
"""

from ml_collections import ConfigDict

from experiments.config.fields import default_config


def get_config() -> ConfigDict:
    """The numbers of this run; the rest is `default_config`."""
    config = default_config("vit")
    config.dataset = "imagenet2012"
    config.test_split = "validation"
    config.streaming = True
    config.image_size = 224
    config.augment = "imagenet_vit"
    config.model.update({"patch": 16, "width": 384, "depth": 12, "heads": 6, "mlp_dim": 1536})
    config.model.update({"pool": "gap", "positions": "sincos", "scan": True})
    config.compute_dtype = "bfloat16"

    config.batch_size = 1024
    config.steps = 112_600  # 90 epochs
    config.eval_every = 1250
    config.eval_batch_size = 2000
    config.checkpoint_every = 5000
    config.learning_rate = 1e-3
    config.warmup_steps = config.get_ref("steps") * 100 // 1126  # 10,000
    config.weight_decay = 0.1
    config.decay_all = False
    config.clip_norm = 1.0

    config.method = "gmp"
    config.sparsity = 0.9
    config.distribution = "uniform"
    config.dense_layers = ("patch_embedding/*", "head/*")
    config.update_every = 1000

    config.mesh.data = -1
    return config
