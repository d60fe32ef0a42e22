"""Commands that belong to no other package: demo, doctor, status, morph and others."""
