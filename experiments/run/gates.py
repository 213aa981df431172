"""What `config.gates` and CoFi put a gate on: slices of each layer, or units tied over several layers."""

import itertools
from collections.abc import Callable

from ml_collections import ConfigDict

from sparsejax import patterns
from sparsejax.parametrizations.gates import GateGroup


def gate_groups(config: ConfigDict) -> dict[str, GateGroup]:
    """Names the gates of CoFi in the transformers of `experiments.models`.

    Sublayers, heads and feed-forward neurons of each block, and the residual width. A gate multiplies what
    reads the unit, once; what makes the unit falls with it.

    Args:
      config: its ``model`` is a transformer whose blocks are not stacked.

    Returns:
      The groups by name.

    Example:
      >>> from experiments.config.fields import default_config
      >>> sorted(gate_groups(default_config("encoder")))
      ['attention_layer', 'heads', 'mlp_layer', 'neurons', 'width']
    """
    model = config.model
    attention, mlp = "block_*/attention", "block_*/mlp"
    grouped = bool(model.get("kv_heads", 0)) and model.kv_heads != model.heads
    into_heads = [f"{attention}/{name}/kernel" for name in ("query", "key", "value")]
    into_mlp = [f"{mlp}/{name}/kernel" for name in ("up", "gate")[: 1 + (model.get("mlp") == "swiglu")]]
    # Key and value heads that several query heads share outlive any one of these.
    own = into_heads[:1] if grouped else into_heads
    out, down = f"{attention}/out/kernel", f"{mlp}/down/kernel"
    head = [] if model.name == "gpt" and model.tied else ["head/kernel"]
    return {
        "heads": GateGroup(((out, 0),), follows=tuple((path, 1) for path in own)),
        "neurons": GateGroup(((down, 0),), follows=tuple((path, 1) for path in into_mlp)),
        "attention_layer": GateGroup(((out, None),), follows=tuple((path, None) for path in into_heads)),
        "mlp_layer": GateGroup(((down, None),), follows=tuple((path, None) for path in into_mlp)),
        "width": GateGroup(
            tuple((path, 0) for path in [*into_heads, *into_mlp, *head]),
            follows=((out, 2), (down, 1)),
            shared=True,
        ),
    }


def neuron_groups(config: ConfigDict) -> dict[str, GateGroup]:
    """Names the neurons and channels of an `MLP` or a `LeNet` as gates: their input weights fall with them.

    Gates on each layer's inputs alone leave the input weights of a neuron that nothing reads in the count, so
    that high sparsities take too many of the network's own inputs.

    Args:
      config: its ``model`` is an mlp or a lenet.

    Returns:
      The groups by the path of the layer that makes the units; "inputs", the pixels that a dense layer reads.

    Example:
      >>> from experiments.config.fields import default_config
      >>> list(neuron_groups(default_config("mlp")))
      ['inputs', 'dense_0', 'dense_1']
    """
    channels = config.model.get("channels", ())
    kernels = [(f"conv_{i}/kernel", 2, 3) for i in range(len(channels))]
    kernels += [(f"dense_{i}/kernel", 0, 1) for i in range(len(config.model.widths) + 1)]
    groups = {} if channels else {"inputs": GateGroup(((kernels[0][0], 0),))}
    for (makes, _, out), (reads, into, _) in itertools.pairwise(kernels):
        name = makes.removesuffix("/kernel")
        # What the last convolution makes is flattened: its channels, at each place of the image.
        flat = bool(channels) and name == f"conv_{len(channels) - 1}"
        groups[name] = GateGroup(
            ((reads, into),), follows=((makes, out),), units=channels[-1] if flat else None, tiled=flat
        )
    return groups


#: What `config.gates` names, as a function of the configuration: one gate for each of these, in every prunable
#: layer; "neurons" of an mlp or a lenet are tied over two layers.
GATES: dict[str, Callable[[ConfigDict], patterns.Pattern | dict[str, GateGroup]]] = {
    "input": lambda config: patterns.Channel("input"),
    "output": lambda config: patterns.Channel("output"),
    "heads": lambda config: patterns.Channel("heads"),
    "weights": lambda config: patterns.Unstructured(),
    "neurons": neuron_groups,
}

#: Gates of whole sublayers and of the residual width begin open, as in CoFi's code; they decide too much.
COARSE = {"attention_layer*": 0.01, "mlp_layer*": 0.01, "width*": 0.01}
