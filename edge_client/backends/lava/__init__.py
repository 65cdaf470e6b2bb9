"""Training with SLAYER, and what a Loihi chip would make of it: lava-dl, on Python 3.10."""
