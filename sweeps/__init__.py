"""Published comparisons as YAML, one per table, and the code that turns one into the jobs of its harness."""
