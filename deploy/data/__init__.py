"""Importers, simulator and replay of session logs."""
