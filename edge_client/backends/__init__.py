"""Backends: who computes a client's update from its spikes. The registry is in `base`."""
