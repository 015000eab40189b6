"""The networks."""

from .compiler import imported_later

with imported_later():
    import segmentation_models_pytorch  # noqa: F401
    import timm  # noqa: F401
