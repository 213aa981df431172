"""The fields of a run's configuration: each is declared once, with its default, what it may be, and what it is for."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from experiments.config.checks import Check, flag, grid, is_whole, number, one_of, several, text, whole
from experiments.config.model_fields import model_fields
from experiments.data.augment_recipes import RECIPES
from experiments.run.gates import GATES
from experiments.run.methods import DISTRIBUTIONS, METHODS
from experiments.run.optimizers import OPTIMIZERS


class Share(NamedTuple):
    """A default that follows `config.steps` until it is overridden: ``steps · of // over``."""

    of: int
    over: int = 1

    def __str__(self) -> str:
        part = "steps" if self.of == 1 else f"{self.of}·steps"
        return part if self.over == 1 else f"{part}/{self.over}"


class Field(NamedTuple):
    """A field of the configuration.

    Attributes:
      name: below ``config``.
      default: its value; a `Share` of the steps, or a mapping, which becomes a `ConfigDict`.
      check: what it may be.
      says: what it is for.
    """

    name: str
    default: Any
    check: Check
    says: str = ""


_SHARE = number("a share in [0, 1]", lambda x: 0 <= x <= 1)
_BELOW_ONE = number("a number in [0, 1)", lambda x: 0 <= x < 1)
_ABOVE_ZERO = number("a number above 0", lambda x: x > 0)
_FROM_ZERO = number("a number of at least 0", lambda x: x >= 0)
_SEED = Check("a whole number in [0, 2**31)", lambda n: whole(0).holds(n) and n < 2**31)  # keys wrap
_FUNCTION = Check(
    "'module:function', or ''", lambda value: isinstance(value, str) and (not value or ":" in value)
)
_FALL = number("", lambda x: x > 0 and (x < 1 or isinstance(x, int)))
_DICT = Check("a ConfigDict with its fields", lambda value: isinstance(value, ConfigDict))
_PATHS = several("a tuple of path patterns, such as ('head/*',)", lambda value: isinstance(value, str))

#: All fields, by topic. A new field is one line here.
TOPICS: dict[str, tuple[Field, ...]] = {
    "Run": (
        Field("seed", 0, _SEED),
        Field("steps", 5000, whole(1)),
        Field("extended", (), several("a tuple of rising steps", lambda n: is_whole(n, 1)),
              "where a run ended before; --extend sets it"),
        Field("batch_size", 64, whole(1)),
        Field("accumulate", 1, whole(1), "parts that a batch is cut into to save memory"),
        Field("eval_every", 100, whole(1), "steps of one compiled chunk: metrics and the bar move once a chunk"),
        Field("eval_batch_size", 512, whole(1)),
        Field("checkpoint_every", Share(1, 5), whole(0), "rounded up to whole chunks; 0 writes none"),
        Field("keep_checkpoints", 2, whole(1)),
    ),
    "Data": (
        Field("dataset", "digits", text(), "one of ours, below, or a prepared one of the TFDS catalogue"),
        Field("train_split", "train", text()),
        Field("test_split", "test", text()),
        Field("data_dir", "", text(), "empty: $SPARSEJAX_DATA, else ~/.cache/sparsejax/data"),
        Field("window", 128, whole(1), "tokens of an example of text"),
        Field("image_size", 224, whole(1), "of streamed images"),
        Field("streaming", False, flag(), "read batches through grain instead of keeping the set on the device"),
        Field("augment", "none", one_of(RECIPES)),
    ),
    "Model": (
        Field("model", {}, _DICT, "its name and sizes, below; --config.model.name=lenet switches"),
        Field("compute_dtype", "float32", one_of(("float32", "bfloat16")),
              "of the products; parameters, gradients and losses are float32"),
        Field("batch_norm_batches", 20, whole(0), "that its statistics are taken from anew after masks changed"),
    ),
    "Optimizer": (
        Field("optimizer", "adamw", one_of(OPTIMIZERS)),
        Field("learning_rate", 0.01, _ABOVE_ZERO, "the peak; linear warm-up, then a cosine to 0"),
        Field("decay_steps", (), several("a tuple of steps, or of shares of steps below 1", _FALL.holds),
              "instead of the cosine: where the learning rate falls to a tenth"),
        Field("schedule_steps", Share(1), whole(1), "where the learning rate reaches 0"),
        Field("skip_steps", 0, whole(0), "of that schedule, before the first step: a rewound run begins inside it"),
        Field("warmup_steps", Share(1, 20), whole(0)),
        Field("weight_decay", 0.1, _FROM_ZERO),
        Field("decay_all", True, flag(), "False: kernels alone, not biases, norms and embeddings"),
        Field("momentum", 0.9, _BELOW_ONE, "of sgd; adamw has its own"),
        Field("clip_norm", 0.0, _FROM_ZERO, "largest global norm of the gradient; 0 for any"),
        Field("label_smoothing", 0.0, _BELOW_ONE),
        Field("ema_decay", 0.0, _BELOW_ONE,
              "of an average of the parameters that is evaluated in their place; 0 for none"),
    ),
    "Sparsity": (
        Field("method", "dense", one_of(METHODS), "see below"),
        Field("sparsity", 0.0, _SHARE, "share of zeros among the prunable weights"),
        Field("distribution", "uniform", one_of(DISTRIBUTIONS, or_function=True), "of the sparsity over layers"),
        Field("score", "", _FUNCTION, "that gives a Score, such as 'sparsejax.scores:lamp'; '': the method's own"),
        Field("pattern", "", _FUNCTION, "that gives a Pattern; '': single weights"),
        Field("rule", "", _FUNCTION, "that gives a MaskRule, for method 'rule'"),
        Field("init_from", "", text(), "a workdir whose parameters to begin with, and whose masks for method 'fixed'"),
        Field("dense_layers", (), _PATHS, "path patterns of layers that are not pruned"),
        Field("min_kept", 0, whole(0), "weights, or units of the pattern, that every layer keeps at least"),
        Field("update_every", 100, whole(1), "steps between mask updates"),
        Field("drop_fraction", 0.3, _SHARE, "of the active weights, at step 0; rigl and set"),
        Field("second_moment", "zero", one_of(("zero", "mean")),
              "of a grown weight, in adamw; 'mean', its layer's, tames its first step"),
        Field("block", 64, whole(1), "inputs and outputs of a block, with model.sparse_compute='blocks'"),
        Field("begin_step", Share(1, 10), whole(0), "gmp, one_shot, ac_dc and learned masks; the others begin at 0"),
        Field("end_step", Share(3, 4), whole(0), "the last mask update; learned masks are at their sparsity"),
    ),
    "Learned masks": (
        Field("penalty_weight", 0.0, _FROM_ZERO, "soft_movement, l0 (of a weight): λ, which sets the sparsity instead"),
        Field("threshold", 0.1, _SHARE, "soft_movement: of σ(score)"),
        Field("gates", "input", one_of(GATES),
              "l0: of what each gate is; 'neurons' (mlp, lenet) are tied over two layers"),
        Field("drop_rate", 0.5, _SHARE, "l0, cofi: chance that a gate is below one half at step 0"),
        Field("score_learning_rate", 0.01, _ABOVE_ZERO,
              "the peak, of movement's scores; Adam, on the weights' schedule"),
        Field("gate_learning_rate", 0.01, _ABOVE_ZERO, "of gates and multipliers; Adam, constant"),
    ),
    "Distillation": (
        Field("teacher", "", text("a workdir, or '' for none"), "the workdir of a finished run to learn from"),
        Field("distill_weight", 0.5, _SHARE, "of its logits in the loss; the labels have the rest"),
        Field("distill_temperature", 2.0, _ABOVE_ZERO),
        Field("distill_layers", 0.0, _FROM_ZERO, "weight of its hidden states, added to the loss; gpt and encoder"),
    ),
    "Population: seed, seed + 1, … at each of these, their product, as one program": (
        Field("population", 0, whole(0), "seeds; 0 is a single run"),
        Field("sparsities", (), grid(_SHARE), "empty: config.sparsity"),
        Field("penalty_weights", (), grid(_FROM_ZERO), "empty: config.penalty_weight"),
        Field("learning_rates", (), grid(_ABOVE_ZERO), "empty: config.learning_rate"),
        Field("population_chunk", 0, whole(0),
              "members computed together; 0: all, but one by one for convolutions on a CPU"),
    ),
    "Devices": (
        Field("mesh", {"data": 1, "fsdp": 1, "tensor": 1}, _DICT, "devices along each axis; -1 takes the rest"),
    ),
}  # fmt: skip

FIELDS: dict[str, Field] = {field.name: field for fields in TOPICS.values() for field in fields}
MESH_AXES: tuple[str, ...] = tuple(FIELDS["mesh"].default)


def default_config(model: str = "mlp") -> ConfigDict:
    """Makes a configuration with every field; a config file changes the few that it is about.

    Args:
      model: whose sizes `config.model` holds; a key of `experiments.models.build.MODELS`.

    Returns:
      An unlocked `ConfigDict`. Times that are a share of the steps follow `steps` when only that is overridden;
      a config file that wants another share says so by reference: ``config.get_ref("steps") // 2``.

    Raises:
      ConfigError: an unknown model.

    Example:
      >>> config = default_config()
      >>> config.steps = 1000
      >>> config.end_step
      750
    """
    sizes = model_fields(model)
    config = ConfigDict({"steps": FIELDS["steps"].default})
    steps = config.get_ref("steps")
    for name, field in FIELDS.items():
        if isinstance(field.default, Share):  # a field of its own, also where it is all steps
            config[name] = steps * field.default.of // field.default.over
        elif name != "steps":
            config[name] = ConfigDict(field.default) if isinstance(field.default, Mapping) else field.default
    config.model = sizes
    return config
