"""`python -m experiments.report`: any number of working directories in one table; and the statistics of all tables."""
