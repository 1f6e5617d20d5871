"""Grafana's dashboards: described in Python, kept as the JSON that Grafana reads."""
