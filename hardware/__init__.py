"""What a board's work costs: meters, sampling, windows, models of energy, the machine card."""
