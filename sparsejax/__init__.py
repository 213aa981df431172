"""sparsejax: sparse training and model compression for any JAX model."""
