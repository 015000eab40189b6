"""Runs expectations on frames; the only module that imports Great Expectations."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import great_expectations as gx
import great_expectations.expectations
import pandas as pd
from great_expectations.data_context.types.base import ProgressBarsConfig
from great_expectations.expectations.expectation import Expectation as Expectation
from great_expectations.expectations.row_conditions import Column as Column

gxe: Any = great_expectations.expectations
"""The library's expectations, typed as Any because strict mypy refuses implicit re-exports."""

INDEX = ("image_id", "split")
"""Columns that identify a row; every frame has them."""

_RESULT_FORMAT = {
    "result_format": "COMPLETE",  # every failing row; the default lists twenty
    "unexpected_index_column_names": list(INDEX),
}


@dataclass(frozen=True)
class ExpectationOutcome:
    """The outcome of an expectation.

    Attributes:
        success: It was evaluated and met.
        error: Why it could not be evaluated, or None.
        rows: The (image id, split) of every row that does not meet it.
        observed: The observed value of an expectation about a table or a column as a whole.
    """

    success: bool
    error: str | None
    rows: tuple[tuple[str, str], ...]
    observed: Any


def evaluate(
    frames: Mapping[str, pd.DataFrame],
    expectations: Mapping[str, tuple[str, Expectation]],
) -> dict[str, ExpectationOutcome]:
    """Evaluate expectations in an ephemeral context, which leaves no files.

    Args:
        frames: Frames by name, each with the columns in `INDEX`.
        expectations: Key -> (name of the frame, expectation).
    """
    # It logs the paths of its temporary directories.
    logging.getLogger(ProgressBarsConfig.__module__).setLevel(logging.WARNING)
    context = gx.get_context(mode="ephemeral")
    context.enable_analytics(False)
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    source = context.data_sources.add_pandas("segops")
    outcomes: dict[str, ExpectationOutcome] = {}
    for name, frame in frames.items():
        suite = context.suites.add(gx.ExpectationSuite(name=name))
        for key, (where, expectation) in expectations.items():
            if where == name:
                expectation.meta = {"key": key}
                suite.add_expectation(expectation)
        batch = source.add_dataframe_asset(name).add_batch_definition_whole_dataframe(name)
        definition = context.validation_definitions.add(
            gx.ValidationDefinition(name=name, data=batch, suite=suite)
        )
        result = definition.run(batch_parameters={"dataframe": frame}, result_format=_RESULT_FORMAT)
        for evaluated in result.results:
            meta: Any = evaluated.expectation_config and evaluated.expectation_config.meta
            outcomes[meta["key"]] = _outcome(evaluated)
    return outcomes


def spelled(expectation: Expectation) -> dict[str, Any]:
    """Return an expectation as JSON values: its `type`, and its arguments as `kwargs`."""
    configuration: dict[str, Any] = expectation.configuration.to_json_dict()
    return {name: configuration[name] for name in ("type", "kwargs")}


def _outcome(result: Any) -> ExpectationOutcome:
    error = _error(result.exception_info)
    rows = result.result.get("unexpected_index_list") or []
    return ExpectationOutcome(
        success=bool(result.success) and error is None,
        error=error,
        rows=tuple((str(row[INDEX[0]]), str(row[INDEX[1]])) for row in rows),
        observed=result.result.get("observed_value"),
    )


def _error(info: Mapping[str, Any] | None) -> str | None:
    """Return an exception's message; after an exception `info` has an entry for each metric."""
    entries: Sequence[Any] = [info or {}, *(info or {}).values()]
    for entry in entries:
        if isinstance(entry, Mapping) and entry.get("raised_exception"):
            return str(entry.get("exception_message") or "an error without a message")
    return None
