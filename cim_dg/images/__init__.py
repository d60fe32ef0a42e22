"""Batched image operations, colours, augmentation, and the cache of decoded images."""
