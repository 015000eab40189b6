"""Describes a data set and checks that it is fit for training."""

import logging

# Great Expectations logs many lines at INFO while it is imported.
logging.getLogger("great_expectations").setLevel(logging.WARNING)
