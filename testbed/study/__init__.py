"""A study: networks, data and attacks in every combination, one resumable cell after another."""
