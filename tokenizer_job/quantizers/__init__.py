"""Vectors to semantic IDs: residual k-means, its balanced form, and RQ-VAE, behind one interface."""

from tokenizer_job.quantizers.quantizer import Fitted, Quantizer, fit_quantizer, load_quantizer

__all__ = ["Fitted", "Quantizer", "fit_quantizer", "load_quantizer"]
