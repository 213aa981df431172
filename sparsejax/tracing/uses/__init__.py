"""Which contraction consumes which parameter, through reshapes, casts and inner jaxprs."""
