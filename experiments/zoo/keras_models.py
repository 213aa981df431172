"""Keras's own applications on its JAX backend, small and random."""

import functools
import os
from typing import Any

import jax

from experiments.zoo.model import Function, Model, normal


def _keras(name: str, size: int, **settings: Any) -> Function:
    os.environ["KERAS_BACKEND"] = "jax"
    import keras

    model = getattr(keras.applications, name)(
        weights=None, input_shape=(size, size, 3), classes=5, classifier_activation=None, **settings
    )
    return keras_function(model, normal(1, size, size, 3))


def keras_function(model: Any, x: jax.Array) -> Function:
    """A Keras model in inference as a function of its trainable variables; the others are closed over."""
    params = {variable.path: variable.value for variable in model.trainable_variables}
    fixed = [variable.value for variable in model.non_trainable_variables]
    paths = [variable.path for variable in model.trainable_variables]

    def fn(params: Any, x: jax.Array) -> jax.Array:
        return model.stateless_call([params[path] for path in paths], fixed, x, training=False)[0]

    return fn, params, (x,)


def models() -> list[Model]:
    """The models, light ones first.

    Returns:
      Them.
    """
    made = [
        ("MobileNet", 32, {"alpha": 0.25}),
        ("VGG16", 32, {}),
        ("MobileNetV2", 32, {"alpha": 0.35}),
        ("MobileNetV3Small", 32, {}),
        ("ResNet50V2", 32, {}),
        ("ConvNeXtTiny", 32, {}),
        ("Xception", 71, {}),
        ("EfficientNetB0", 32, {}),
        ("InceptionV3", 75, {}),
        ("DenseNet121", 32, {}),
        ("EfficientNetV2B0", 32, {}),
        ("NASNetMobile", 32, {}),
    ]
    return [
        Model(name, "keras", ("keras",), functools.partial(_keras, name, size, **settings))
        for name, size, settings in made
    ]
