"""The attacker: rebuilds inputs from what crossed the wire."""
