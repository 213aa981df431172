"""`python -m experiments.sweep`: many runs as processes, on this machine, Ray or SLURM."""
