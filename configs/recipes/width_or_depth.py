"""A transformer cut in width or in depth to equal sizes, each distilled from the original, and trained from scratch.

python -m experiments.compress --config=configs/recipes/width_or_depth.py:gpt --workdir=runs/width_or_depth_gpt
python -m experiments.compress --config=configs/recipes/width_or_depth.py:encoder --workdir=runs/width_or_depth_encoder

Two or four of eight blocks go, or as many parameters in width. The same shape drawn anew then trains for as many
floating point operations as the distillation took, the teacher's forward passes included. A quarter and a half of the
attention heads alone are cut too: what they hold of the keys and values of every token goes with them.
"""

from ml_collections import ConfigDict

from experiments.compress.recipe.options import add_stage, default_recipe
from experiments.config.checks import choice
from experiments.config.fields import default_config

DATA = {"gpt": ("python_text", "test[:5%]", 0.005), "encoder": ("python_kinds", "test[:10%]", 0.003)}
SHARES = {2: 0.769, 4: 0.538}  # blocks that go -> the share of the parameters that stays
STEPS = 400


def get_config(name: str = "gpt") -> ConfigDict:
    """Eight blocks of width 32, and four smaller networks of it at each of two sizes."""
    choice(name, DATA, "variant")
    base = default_config(name)
    base.dataset, base.test_split, base.learning_rate = DATA[name]
    base.window, base.batch_size, base.clip_norm = 64, 16, 1.0
    base.model.depth, base.model.width, base.model.mlp_dim = 8, 32, 128
    base.model.scan = True  # 23 stages, each compiled: in the time of one block
    base.steps, base.eval_every = 2 * STEPS, STEPS
    options = default_recipe(base)
    options.seeds = 3
    add_stage(options, "dense", "train")
    pairs = []
    for drop, share in SHARES.items():
        # A step of distillation is three passes of the student and one of the teacher.
        equal = round(STEPS * (1 + 1 / (3 * share)))
        size = f"{share:.0%}".rstrip("%")
        for way in ("width", "depth"):
            cut = {"share": share} if way == "width" else {"drop": drop}
            add_stage(options, f"{way}_{size}", way, after="dense", **cut)
            add_stage(options, f"{way}_{size}_distilled", "distil", steps=STEPS)
            add_stage(options, f"{way}_{size}_drawn", "redraw", after=f"{way}_{size}")
            scratch = {"steps": equal, "learning_rate": base.learning_rate, "warmup": 0.05}
            add_stage(options, f"{way}_{size}_scratch", "fine_tune", **scratch)
            pairs.append((f"{way}_{size}_distilled", f"{way}_{size}_scratch"))
        pairs.append((f"width_{size}_distilled", f"depth_{size}_distilled"))
    for share in (0.25, 0.5):
        label = f"heads_{1 - share:.0%}".rstrip("%")
        cut = {"kinds": ("head",), "budget": "channel_ratio", "ratio": share, "importance": "taylor"}
        add_stage(options, f"{label}_masked", "structured", after="dense", **cut)
        add_stage(options, label, "shrink")
        add_stage(options, f"{label}_distilled", "distil", steps=STEPS)
    options.compare = tuple(pairs)
    return options
