"""Launching one run on TPU slices, GPU clusters and machines of several GPUs: commands and manifests, shown or run."""
