"""`python -m experiments.study`: a grid of methods, sparsities and seeds."""
