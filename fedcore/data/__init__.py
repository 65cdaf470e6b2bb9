"""Data: sets of examples, their partition to clients, shards on disk, and encodings over time."""
