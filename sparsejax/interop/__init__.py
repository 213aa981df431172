"""Doors to other libraries, each imported late."""
