"""Configurations: their fields, declared once, and the checks that they make sense together."""
