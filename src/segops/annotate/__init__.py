"""Which unlabelled images to annotate next."""
