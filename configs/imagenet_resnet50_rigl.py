"""RigL at 80 %, ResNet-50, ImageNet: the recipe of the RigL paper.

python -m experiments.train --config=configs/imagenet_resnet50_rigl.py --workdir=runs/imagenet_resnet50_rigl

For 16 TPU chips (v5e-16: 4 hosts of 4) or 8 GPUs of 80 GB, one command a host; see docs/pods.md. Prepare the data
once: tfds build imagenet2012 --file_format=array_record. NOT run here: compiled for v5e-16 only. The paper reports
75.1 % (ERK) at 80 %, 76.8 % dense.
Recipe: U. Evci et al., Rigging the Lottery, arXiv:1911.11134, section 4.1 and appendix: batch 4096, 32,000 steps, peak
learning rate 1.6, warm-up of 5 epochs, a tenth at epochs 30, 70 and 90, momentum 0.9, L2 1e-4, labels smoothed
by 0.1, ΔT = 100, α = 0.3, cosine, masks fixed after 25,000 steps. L2 is on kernels alone.
"""

from ml_collections import ConfigDict

from experiments.config.fields import default_config


def get_config() -> ConfigDict:
    """The numbers of this run; the rest is `default_config`."""
    config = default_config("resnet")
    config.dataset = "imagenet2012"
    config.test_split = "validation"
    config.streaming = True
    config.image_size = 224
    config.augment = "imagenet_resnet"  # flips, channels normalised, labels smoothed
    config.model.update({"stages": (3, 4, 6, 3), "width": 64, "block": "bottleneck", "stem": "imagenet"})
    config.compute_dtype = "bfloat16"

    config.batch_size = 4096
    config.steps = 32_000
    config.eval_every = 320  # an epoch
    config.eval_batch_size = 2000
    config.checkpoint_every = 1600
    config.optimizer = "sgd"
    config.learning_rate = 1.6
    config.decay_steps = (0.3, 0.7, 0.9)  # shares of the steps; warm-up is a twentieth of them
    config.weight_decay = 1e-4
    config.decay_all = False

    config.method = "rigl"
    config.sparsity = 0.8
    config.distribution = "erdos_renyi_kernel"
    config.update_every = 100
    config.drop_fraction = 0.3
    config.end_step = config.get_ref("steps") * 25 // 32

    config.mesh.data = -1
    return config
