"""The packed store, the selection split, and what training reads batches from."""
