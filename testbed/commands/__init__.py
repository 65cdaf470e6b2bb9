"""The sub-commands of `leakwatt`, one module per concern; each adds its parsers and runs them."""
