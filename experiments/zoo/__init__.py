"""The zoo: models that nobody here wrote, traced, shrunk and compared, whatever libraries are installed."""
