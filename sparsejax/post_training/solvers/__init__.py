"""Solvers of one layer: pure mathematics on a weight matrix and the Gram matrix of its inputs."""
