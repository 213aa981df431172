"""Residual branches: found, ranked, dropped."""
