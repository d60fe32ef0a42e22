"""The shared code of the harnesses' adapters."""
