"""What the command line calls that belongs to no other package: demo, doctor, status, morph."""
