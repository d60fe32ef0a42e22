"""Code that the stand-in's scripts share."""
