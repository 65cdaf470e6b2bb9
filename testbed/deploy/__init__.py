"""Putting clients onto boards: `leakwatt deploy`, over SSH with Ansible (extra `deploy`)."""
