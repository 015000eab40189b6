"""Other forms of a trained model, for runtimes other than torch."""
