"""Networks, neurons, losses and learning rules in torch: what client and attacker both compute."""
