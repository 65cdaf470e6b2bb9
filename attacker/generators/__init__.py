"""Untrained networks that draw the candidate: to search their weights is a prior on images."""
