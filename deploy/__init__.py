"""The only room that knows all four workers: command line, local stack, data."""
