"""The aggregator: rounds, admission, strategies, tap and store; never imports torch."""
