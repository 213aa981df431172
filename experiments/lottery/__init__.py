"""`python -m experiments.lottery`: lottery tickets and their controls."""
