"""The same jaxpr at smaller sizes, its custom derivatives included."""
