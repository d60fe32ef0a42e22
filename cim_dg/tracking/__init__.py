"""The curves of runs in TensorBoard and Weights & Biases, from the files that the harnesses write."""
