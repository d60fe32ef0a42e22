"""How what comes from a source becomes the folder that a harness reads."""
