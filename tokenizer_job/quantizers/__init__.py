"""Vectors to semantic IDs: residual k-means, its balanced form, and RQ-VAE."""
