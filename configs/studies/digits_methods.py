"""Test accuracy of LeNet-300-100 on handwritten digits at 90, 95 and 98 % sparsity, method by method.

python -m experiments.study --config=configs/studies/digits_methods.py --workdir=runs/digits_methods

Measured: 891 s on 2 cores while a test suite ran; dense 0.930 ± 0.003, and at 95 % global GMP 0.924 ± 0.007,
SNIP 0.920 ± 0.009, SET 0.917 ± 0.003, static 0.908 ± 0.006, RigL 0.902 ± 0.005 (mean and 95 % interval of 8 seeds; all
of it in the README).
"""

from ml_collections import ConfigDict

from sparsejax.training import default_config

ERK = "erdos_renyi_kernel"
# Dense networks with about as many parameters as the sparse ones keep.
SMALL = {0.9: (60, 20), 0.95: (34, 16), 0.98: (15, 12)}


def get_config() -> ConfigDict:
    """The grid; fields of the base may be changed from the command line: --config.base.steps=2000."""
    study = ConfigDict()
    study.title = "Handwritten digits, LeNet-300-100 (50,200 prunable weights)"
    study.base = base()
    study.sparsities = (0.9, 0.95, 0.98)
    study.seeds = 8
    study.tuning = tuning()
    study.metric = "test_accuracy"
    study.lower = False
    grid = methods(study.base)
    study.methods, study.order = ConfigDict(grid), tuple(grid)
    # Ordering 1 of the references, and Erdős–Rényi-Kernel over uniform.
    study.orderings = (
        ("set", "static"),
        ("rigl", "set"),
        ("gmp_uniform", "rigl"),
        ("gmp_global", "rigl"),
        ("rigl", "rigl_uniform"),
    )
    return study


def tuning() -> ConfigDict:
    """Candidates for the learning rate of every method, compared on held-out training data."""
    return ConfigDict(
        {
            "learning_rates": (0.001, 0.003, 0.01),
            "seed": 100,
            "sparsity": 0.95,
            "train_split": "train[:80%]",
            "test_split": "train[80%:]",
        }
    )


def base() -> ConfigDict:
    """What all methods share: the model, the data, the optimizer and the times of mask updates."""
    config = default_config("mlp")
    config.steps = 3000
    config.learning_rate = 0.005
    config.checkpoint_every = 0
    return config


def methods(base: ConfigDict) -> dict:
    """Each method as changes of the base."""
    grid = {
        "dense": {},
        "static": {"method": "static", "distribution": ERK},
        "snip": {"method": "snip", "distribution": "global"},
        "set": {"method": "set", "distribution": ERK},
        "rigl_uniform": {"method": "rigl"},
        "rigl": {"method": "rigl", "distribution": ERK},
        "gmp_uniform": {"method": "gmp"},
        "gmp_global": {"method": "gmp", "distribution": "global"},
        "one_shot": {"method": "one_shot", "begin_step": base.steps // 2, "distribution": "global"},
        "ac_dc": {"method": "ac_dc", "distribution": "global"},
    }
    entries = {name: {"changes": changes} for name, changes in grid.items()}
    for sparsity, widths in SMALL.items():
        name = f"{100 * sparsity:.0f}"
        sizes = {"model": {"widths": widths}}
        entries[f"small_dense_{name}"] = {"row": "small_dense", "column": sparsity, "changes": sizes}
        # The same network trained for as many FLOPs as a sparse one would take.
        short = {
            "steps": round((1 - sparsity) * base.steps),
            "warmup_steps": 10,
            "begin_step": 0,
            "end_step": 0,
        }
        entries[f"short_dense_{name}"] = {"row": "short_dense", "column": sparsity, "changes": short}
    return entries
