"""Dimensions through a jaxpr: which axes of which parameters are the same units, and where those may be pruned."""
