"""Our algorithms in SubpopBench (Yang et al., ICML 2023): what is registered there, and a method in its form."""
