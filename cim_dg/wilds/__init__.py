"""WILDS (Koh et al. 2021): its PyPI package, its examples harness, and leaderboard submissions."""
