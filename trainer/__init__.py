"""Streaming fine-tuning of the policy: consumes sessions and groups, publishes parameters."""
