"""From importances and a budget to the units that stay."""
