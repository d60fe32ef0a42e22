"""The Backgrounds Challenge: ImageNet-9, its variants, and the adversarial test."""
