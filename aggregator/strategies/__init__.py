"""Strategies: many updates -> the next global weights."""
