"""In which order to prune and to round: every order on trained networks, at several sparsities, in few bits."""
