"""`python -m experiments.compress`: structured pruning, fine-tuning, shrinking, measuring."""
