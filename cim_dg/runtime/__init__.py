"""Files, locks, seeds, checkpoints, devices, settings: nothing of learning."""
