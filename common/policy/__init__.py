"""The generative policy; imports torch and numpy only, so that it runs alone on any machine."""
