"""Models in flax nnx, sized by config."""
