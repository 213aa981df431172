"""Finished runs as models: `load_run(workdir)` gives what a run of `experiments.train` left, ready to predict."""

from experiments.inference.loading import Trained, load_run

__all__ = ["Trained", "load_run"]
