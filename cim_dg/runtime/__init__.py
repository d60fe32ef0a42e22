"""Files, locks, seeds, checkpoints, devices and settings: nothing specific to learning."""
