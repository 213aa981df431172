"""One-shot pruning of networks that were trained before, measured: methods, sparsities, draws of calibration data."""
