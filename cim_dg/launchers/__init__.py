"""Jobs, and what runs them: on this machine, in warm processes, on Ray, on Slurm. No harness is known here."""
