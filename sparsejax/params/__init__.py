"""Parameter trees: paths, what each axis is for, and how many weights a sparsity keeps."""
