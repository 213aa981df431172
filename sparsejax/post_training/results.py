"""What pruning a model returns."""

from typing import NamedTuple

from sparsejax.typing import MaskTree, Params


class LayerResult(NamedTuple):
    """What pruning did to one parameter (all layers of a stack together).

    Attributes:
      path: its path.
      sparsity: fraction of zeros of its mask.
      error: relative squared error of its outputs on the calibration rows, against the target it was solved for:
        with asymmetric targets the dense model's outputs, else the dense weights' on the same inputs.
      held_out_error: the same on the batches held out; what to trust. NaN where none of their rows reaches the layer.
      rows: calibration rows of the layer (of a stack: the fewest).
      damping: the λ that was used (the most).
      converged: whether the solver said so for every layer.
      seconds: from the first batch to the solution; 0 where a workdir had it.
      kept_bytes: what calibration held for all batches while the layer was solved: the values that are live at
        that place, twice where the dense model runs beside, and the Gram matrices of the layers solved with it.
      peak_bytes: what was measured then: the device's own peak where it tells one, else all arrays that JAX holds,
        parameters included.
    """

    path: str
    sparsity: float
    error: float
    held_out_error: float
    rows: int
    damping: float
    converged: bool
    seconds: float = 0.0
    kept_bytes: int = 0
    peak_bytes: int = 0


class PrunedModel(NamedTuple):
    """A pruned model.

    Attributes:
      params: the parameters, zero off the masks.
      masks: the mask tree; 0-d True where a leaf was not pruned.
      layers: a `LayerResult` for each pruned parameter, in the order they were pruned.
    """

    params: Params
    masks: MaskTree
    layers: dict[str, LayerResult]
