"""The `onerec` command."""
