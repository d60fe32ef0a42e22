"""Published comparisons as YAML, one per table, and the code that turns a comparison into jobs of its harness."""
