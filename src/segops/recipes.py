"""Recipes: YAML files with the parameters of a training, most with the published mIoU they aim at.

Using a recipe writes its values into ``params.yaml``, which stays the only configuration.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError

from segops.edit import Edit, overlay_values, plan
from segops.params.base import read_yaml
from segops.params.file import Params, load_params
from segops.params.messages import problems
from segops.runtime.classes import VOC_CLASSES
from segops.runtime.errors import SegopsError
from segops.runtime.section import Count, Section
from segops.voc.layout import SPLITS, open_layout
from segops.words import first_line

DIRECTORY = Path("recipes")
ABOUT = "recipe"
"""The key of a recipe's description; all other keys are parameters."""
SYNCHRONISED = "train.sync_batch_norm"


class Aim(Section):
    """The published figure that a recipe aims at.

    Attributes:
        miou: Published mIoU in per cent; None without a reliable figure.
        iterations: Optimiser steps after which it was measured.
        source: The publication, or why there is no figure.
    """

    miou: Annotated[float, Field(gt=0, lt=100)] | None
    iterations: Count
    source: str


class Needs(Section):
    """The data set of the published figure, and the command that gets it."""

    name: str
    train_images: Count
    val_images: Count
    get: str


class About(Section):
    """The description of a recipe, and its differences from the published training.

    Without `data` the recipe is for any data, and no figure belongs to it.
    """

    title: str
    aim: Aim
    network: str
    data: Needs | None
    differences: tuple[str, ...]


@dataclass(frozen=True)
class Recipe:
    """A recipe that was read from its file, with its parameters by dotted key."""

    path: Path
    about: About
    values: dict[str, Any]

    @property
    def name(self) -> str:
        """The name for `segops run --recipe`: the file's name without its suffix."""
        return self.path.stem


def read(path: Path) -> Recipe:
    """Read a recipe; :func:`put_over` checks its parameters.

    Raises:
        SegopsError: The file is missing or not YAML, or its description is incomplete or has
            unknown keys.
    """
    if not path.is_file():
        raise SegopsError(f"{path}: no such recipe. `segops recipes` lists them.")
    tree, _ = read_yaml(path)
    if not isinstance(tree.get(ABOUT), dict):
        raise SegopsError(
            f"{path}: not a recipe; expected sections of params.yaml, and a mapping `{ABOUT}` with "
            f"{', '.join(About.model_fields)}."
        )
    try:
        about = About.model_validate(tree.pop(ABOUT))
    except ValidationError as error:
        lines = [f"  {ABOUT}.{problem}" for problem in problems(About, error.errors())]
        raise SegopsError("\n".join([f"{path}: not a usable recipe:", *lines])) from None
    return Recipe(path, about, overlay_values(tree))


def every(root: Path) -> list[Recipe]:
    """Return the recipes of a checkout, by name.

    Raises:
        SegopsError: A recipe is not readable.
    """
    return [read(path) for path in _paths(root)]


def _paths(root: Path) -> list[Path]:
    return sorted((root / DIRECTORY).glob("*.yaml"))


def find(root: Path, name: str) -> Recipe:
    """Find a recipe by its name, that of a file in ``recipes/`` without its suffix, or its path.

    Raises:
        SegopsError: There is no such recipe; the message lists all names.
    """
    if name.endswith((".yaml", ".yml")) or "/" in name:
        return read(Path(name))
    paths = {path.stem: path for path in _paths(root)}
    if name in paths:
        return read(paths[name])
    names = ", ".join(paths)
    close = difflib.get_close_matches(name, paths, n=1)
    hint = f" Did you mean {close[0]}?" if close else ""
    raise SegopsError(
        f"{name}: no such recipe in {DIRECTORY}/.{hint} There "
        f"{f'are {names}' if names else 'is none'}; the path of a file is taken too."
    )


def put_over(root: Path, recipe: Recipe) -> Edit:
    """Return the change of ``params.yaml`` to a recipe's values, without writing it.

    On one device synchronised batch norm is refused, so there a recipe's `train.sync_batch_norm`
    becomes false.

    Raises:
        SegopsError: The recipe has an unknown key or a bad value; the message names file and key.
    """
    place = recipe.path
    place = place.relative_to(root) if place.is_relative_to(root) else place
    values = recipe.values
    if values.get(SYNCHRONISED) is True:
        train = load_params(root).train
        numbers = {"train.devices": train.devices, "train.nodes": train.nodes}
        if all(values.get(key, number) == 1 for key, number in numbers.items()):
            values = values | {SYNCHRONISED: False}
    return plan(root, values, str(place))


def doubts(root: Path, recipe: Recipe, settings: Params) -> list[str]:
    """Return reasons why the recipe's figure does not apply to the workspace, a text each.

    `settings` are the workspace's parameters with the recipe's values.
    """
    needs = recipe.about.data
    if needs is None:
        return []
    get = f"`{needs.get}` installs {needs.name}."
    try:
        layout = open_layout(root / settings.data.path, settings.data.reading)
        present = {split: len(layout.ids(split)) for split in SPLITS}
    except SegopsError as error:
        return [f"{first_line(error)}. {get}"]
    expected = {"train": needs.train_images, "val": needs.val_images}
    reasons = [
        f"{settings.data.path} holds {present[split]:,} {split} images, the recipe is for "
        f"{expected[split]:,}: its published figure does not apply to this data. {get}"
        for split in SPLITS
        if present[split] != expected[split]
    ]
    if settings.data.class_names != VOC_CLASSES:
        reasons.append(
            "data.classes are not those of VOC: they are kept, and the recipe's published figure "
            "does not apply to them."
        )
    return reasons
