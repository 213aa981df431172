"""One HTML page of a set of runs, which needs nothing beside itself."""
