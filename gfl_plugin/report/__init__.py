"""A page about a trained detector: :mod:`content` computes what it shows."""
