"""Statistics of what flows into each weight, gathered while the function runs."""
