"""What people type to measure: `leakwatt meter`, `leakwatt calibrate`."""
