"""The registered model, as MLflow runs it ("models from code").

Every bundle has a copy of this file, which MLflow runs when the model is logged and when it is
loaded. It needs no segops: ``opener.py`` imports the bundle's own code under a name that only this
bundle has, beside an installed segops and other versions of the model in the same process.

The model's configuration may hold `device` (a torch device; `auto` by default) and `bundle_digest`,
which is checked before the bundle's code is run. The settings of prediction (windows, averages,
refinement, the largest image) are part of the bundle, so that the served model is the scored model.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel


class BundledSegmenter(PythonModel):
    """Photographs in, masks out."""

    def load_context(self, context: Any) -> None:
        """Open the bundle that was logged as the artifact `bundle`."""
        directory = Path(context.artifacts["bundle"])
        configuration = context.model_config or {}
        self.predictor = _opener(directory).open_bundle(
            directory,
            device=configuration.get("device", "auto"),
            expected_digest=configuration.get("bundle_digest"),
        )

    def predict(
        self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Predict every row.

        Args:
            context: Not used.
            model_input: One column `image`: bytes of an image file, or these in base64.
            params: Not used.

        Returns:
            Columns `mask` (bytes of a palette PNG of the image's size, class ids) and `confidence`
            (mean top probability), with the index of the input.

        Raises:
            MlflowException: The column is missing, or a row is no image (HTTP status 400).
        """
        if "image" not in model_input.columns:
            raise MlflowException.invalid_parameter_value(
                f"expected a column `image`, found {', '.join(map(str, model_input.columns))}"
            )
        rows = []
        for row, content in enumerate(model_input["image"]):
            if not isinstance(content, (bytes, bytearray, memoryview, str)):
                raise MlflowException.invalid_parameter_value(
                    f"image in row {row} is {type(content).__name__}; expected bytes or base64"
                )
            try:
                if not isinstance(content, str):
                    content = bytes(content)
                rows.append(self.predictor.predict_bytes(content, f"image in row {row}"))
            except Exception as error:
                if type(error).__name__ != "SegopsError":  # the bundle's own class
                    raise
                raise MlflowException.invalid_parameter_value(str(error)) from error
        return pd.DataFrame(rows, columns=["mask", "confidence"], index=model_input.index)


def _opener(directory: Path) -> ModuleType:
    """The bundle's ``opener.py``, run from its source and registered nowhere."""
    path = directory / "runtime" / "opener.py"
    module = ModuleType("segops_bundle_opener")
    module.__file__ = str(path)
    exec(compile(path.read_bytes(), str(path), "exec"), module.__dict__)
    return module


set_model(BundledSegmenter())
