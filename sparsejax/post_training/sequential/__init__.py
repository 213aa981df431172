"""Calibration block by block: a function cut in segments between its layers, dense and pruned side by side."""
