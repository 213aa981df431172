"""Searchers compared at equal evaluations and equal budget, on networks trained here."""
