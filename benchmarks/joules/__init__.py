"""What benchmarks/hardware.py prints, one module per table."""
