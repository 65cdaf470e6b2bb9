"""The shared kernel: what every room may import; numpy and the standard library only, except nn."""
