"""The whole loop on one machine: embedded brokers, child processes, the report."""
