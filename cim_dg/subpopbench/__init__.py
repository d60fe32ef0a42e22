"""Our algorithms in SubpopBench (Yang et al., ICML 2023): their registration and their adapter."""
