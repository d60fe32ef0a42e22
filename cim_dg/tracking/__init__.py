"""The curves of runs in TensorBoard and Weights & Biases: read from what the harnesses write, never from within training."""
