"""What the stand-in's scripts share."""
