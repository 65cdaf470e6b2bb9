"""Exact recovery: what the gradient of a fully connected layer gives away without any search."""
