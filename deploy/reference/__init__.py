"""The parts of the documentation that the code itself tells: settings, messages and metrics, as Markdown tables.

``python -m deploy.reference`` writes them into the pages under ``docs/``, between the marks that name them.
"""
