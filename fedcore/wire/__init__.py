"""Bytes on the wire <-> fedcore types: the only room that translates protobuf."""
