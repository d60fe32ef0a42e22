"""What the adapters of every harness do alike."""
