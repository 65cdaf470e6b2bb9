"""The edge client: runs on the board."""
