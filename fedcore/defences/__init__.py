"""Defences: what a client does to its model or update so that it tells less."""
