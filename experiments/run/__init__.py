"""A run: from a configuration to compiled chunks of steps."""
