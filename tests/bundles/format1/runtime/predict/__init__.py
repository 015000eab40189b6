"""One predictor, and the self-contained bundle that carries it."""
