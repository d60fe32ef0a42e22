"""The data sets: those of this package, the catalogue, download and verification, and the user's own."""
