"""Candidate generation: beam search, engine, Ray actors, fleet, offline evaluation."""
