"""The building blocks of methods: the perceptual loss, pairs, networks, pixel spaces."""
