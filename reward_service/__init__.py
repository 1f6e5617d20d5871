"""The preference model and the HTTP service that scores items with it."""
