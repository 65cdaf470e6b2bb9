"""One file per kind of meter; they are named in hardware.registry."""
