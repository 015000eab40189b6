"""What a data set holds, and whether that is fit for training."""

import logging

# Great Expectations logs a screenful at INFO while it is imported.
logging.getLogger("great_expectations").setLevel(logging.WARNING)
