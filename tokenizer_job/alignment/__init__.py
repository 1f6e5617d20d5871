"""Aligning content with behaviour: item pairs, QFormer, contrastive and caption losses."""
