"""Layer peeling: the features behind the readout are read from its gradient, then inverted."""
