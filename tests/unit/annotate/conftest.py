"""The model of these tests."""

from tests.unit.predict.conftest import bundle

__all__ = ["bundle"]
