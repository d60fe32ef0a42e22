"""What methods are made of: the perceptual loss, pairs, networks, pixel spaces."""
