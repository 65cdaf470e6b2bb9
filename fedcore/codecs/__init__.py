"""Codecs: tensors by name <-> the bytes on the wire."""
