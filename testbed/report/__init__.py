"""The page of a run: one self-contained HTML file, figures beside it, a terminal summary."""
