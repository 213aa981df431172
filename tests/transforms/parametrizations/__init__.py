"""Tests of the parametrizations."""
