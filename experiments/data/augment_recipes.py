"""The papers' augmentations by name: what a batch goes through in training, and what of that in evaluation."""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax

from experiments.data.augment import crop, flip, normalize
from experiments.data.mixing import draw_mixup_weight, mixup, smooth
from experiments.data.randaugment import draw_randaugment, randaugment
from experiments.data.split import Batch
from experiments.errors import ConfigError

#: One step of an augmentation: a function of a key and a batch whose images are (batch, height, width, channels).
Operation = Callable[[jax.Array, Batch], Batch]

# Means and deviations of the training images' channels.
_CIFAR = ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class Augmentations(NamedTuple):
    """What a batch goes through.

    Attributes:
      train: in training.
      evaluate: in evaluation; it ignores its keys.
    """

    train: tuple[Operation, ...] = ()
    evaluate: tuple[Operation, ...] = ()


def random_flip() -> Operation:
    """Mirrors every other image, at random.

    Returns:
      The operation.

    Example:
      >>> import jax.numpy as jnp
      >>> jax.eval_shape(random_flip(), jax.random.key(0), Batch(jnp.ones((2, 3, 3, 1)), jnp.zeros(2))).inputs.shape
      (2, 3, 3, 1)
    """
    return _on_images(lambda key, x: flip(x, jax.random.bernoulli(key, shape=x.shape[:1])))


def random_crop(padding: int) -> Operation:
    """Shifts every image by up to `padding` pixels each way, zeros coming in.

    Args:
      padding: pixels.

    Returns:
      The operation.

    Example:
      >>> import jax.numpy as jnp
      >>> jax.eval_shape(random_crop(1), jax.random.key(0), Batch(jnp.ones((2, 3, 3, 1)), jnp.zeros(2))).inputs.shape
      (2, 3, 3, 1)
    """

    def shift(key: jax.Array, x: jax.Array) -> jax.Array:
        return crop(x, jax.random.randint(key, (x.shape[0], 2), 0, 2 * padding + 1), padding)

    return _on_images(shift)


def random_augment(layers: int = 2, magnitude: float = 10) -> Operation:
    """Applies RandAugment's layers one after the other.

    Args:
      layers: operations an image goes through.
      magnitude: their strength, in [0, 10].

    Returns:
      The operation.

    Example:
      >>> import jax.numpy as jnp
      >>> jax.eval_shape(random_augment(1), jax.random.key(0), Batch(jnp.ones((2, 3, 3, 1)), jnp.zeros(2))).inputs.shape
      (2, 3, 3, 1)
    """

    def distort(key: jax.Array, x: jax.Array) -> jax.Array:
        for layer in jax.random.split(key, layers):
            x = randaugment(x, draw_randaugment(layer, x.shape[0]), magnitude)
        return x

    return _on_images(distort)


def normalized(mean: Sequence[float], std: Sequence[float]) -> Operation:
    """Centres and scales each channel.

    Args:
      mean: of each channel.
      std: of each channel.

    Returns:
      The operation.

    Example:
      >>> import jax.numpy as jnp
      >>> normalized((1.0,), (2.0,))(jax.random.key(0), Batch(jnp.ones((1, 1, 1, 1)), jnp.zeros(1))).inputs.item()
      0.0
    """
    return _on_images(lambda key, x: normalize(x, mean, std))


def smoothed_labels(classes: int, share: float) -> Operation:
    """Smooths the labels.

    Args:
      classes: how many there are.
      share: of the probability that is spread evenly.

    Returns:
      The operation.

    Example:
      >>> import jax.numpy as jnp
      >>> smoothed_labels(2, 0.5)(jax.random.key(0), Batch(jnp.ones(1), jnp.array([1]))).targets.tolist()
      [[0.25, 0.75]]
    """
    return lambda key, batch: batch._replace(targets=smooth(batch.targets, classes, share))


def random_mixup(classes: int, alpha: float) -> Operation:
    """Mixes every example with its neighbour.

    Args:
      classes: how many there are.
      alpha: of the Beta distribution of the weight.

    Returns:
      The operation.

    Example:
      >>> import jax.numpy as jnp
      >>> jax.eval_shape(random_mixup(2, 0.2), jax.random.key(0), Batch(jnp.ones(2), jnp.array([0, 1]))).targets.shape
      (2, 2)
    """
    return lambda key, batch: mixup(batch, classes, draw_mixup_weight(key, alpha))


def _zero_to_one_centered() -> Operation:
    return _on_images(lambda key, x: 2 * x - 1)


#: Recipes by name, as functions of the number of classes. ImageNet's random crops happen on the host, where the
#: full-size images are (`stream` with an image size); here is what comes after them.
RECIPES: dict[str, Callable[[int], Augmentations]] = {
    "none": lambda classes: Augmentations(),
    "digits_shift": lambda classes: Augmentations((random_crop(1),)),
    # He et al., Deep Residual Learning, arXiv:1512.03385, section 4.2.
    "cifar": lambda classes: Augmentations(
        (random_crop(4), random_flip(), normalized(*_CIFAR)), (normalized(*_CIFAR),)
    ),
    # Evci et al., Rigging the Lottery, arXiv:1911.11134, section 4.1.
    "imagenet_resnet": lambda classes: Augmentations(
        (random_flip(), normalized(*_IMAGENET), smoothed_labels(classes, 0.1)), (normalized(*_IMAGENET),)
    ),
    # Beyer et al., Better plain ViT baselines for ImageNet-1k, arXiv:2205.01580.
    "imagenet_vit": lambda classes: Augmentations(
        (random_flip(), random_augment(2, 10), _zero_to_one_centered(), random_mixup(classes, 0.2)),
        (_zero_to_one_centered(),),
    ),
}


def build_augment(recipe: str | Sequence[Operation], classes: int, *, train: bool = True) -> Operation | None:
    """Composes an augmentation that a compiled step calls on its batch.

    Args:
      recipe: a name in `RECIPES`, or operations to apply one after the other.
      classes: of the targets; recipes that mix or smooth them turn them into probabilities (batch, classes).
      train: False for what evaluation applies too (of operations given one by one: all of them).

    Returns:
      ``(key, batch) -> batch``, where images without channels keep their shape; None where nothing is to be done.

    Raises:
      ConfigError: an unknown name.

    Example:
      >>> import jax.numpy as jnp
      >>> build_augment("none", 10) is None
      True
      >>> batch = Batch(jnp.ones((2, 8, 8)), jnp.array([0, 1]))
      >>> jax.eval_shape(build_augment("digits_shift", 10), jax.random.key(0), batch).inputs.shape
      (2, 8, 8)
    """
    if isinstance(recipe, str):
        if recipe not in RECIPES:
            raise ConfigError(f"Unknown augmentation {recipe!r}: choose one of {', '.join(RECIPES)}.")
        operations = RECIPES[recipe](classes)[0 if train else 1]
    else:
        operations = tuple(recipe)
    return functools.partial(_apply, operations) if operations else None


def _apply(operations: tuple[Operation, ...], key: jax.Array, batch: Batch) -> Batch:
    flat = batch.inputs.ndim == 3  # gray images without an axis of channels
    if flat:
        batch = batch._replace(inputs=batch.inputs[..., None])
    for index, operation in enumerate(operations):
        batch = operation(jax.random.fold_in(key, index), batch)
    return batch._replace(inputs=batch.inputs[..., 0]) if flat else batch


def _on_images(transform: Callable[[jax.Array, jax.Array], jax.Array]) -> Operation:
    return lambda key, batch: batch._replace(inputs=transform(key, batch.inputs))
