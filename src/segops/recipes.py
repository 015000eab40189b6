"""Recipes: published trainings as overlays over ``params.yaml``, one YAML file each.

A recipe holds parameters, spelled as ``params.yaml`` spells them, and under `recipe` what it is
and which figure it aims at. Putting it to use means writing its values into ``params.yaml``, which
stays the only configuration.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, ValidationError

from segops.edit import Edit, overlay_values, plan
from segops.params.file import Params, load_params
from segops.params.messages import problems
from segops.runtime.classes import VOC_CLASSES
from segops.runtime.errors import SegopsError
from segops.runtime.section import Section
from segops.voc.layout import SPLITS, open_layout

DIRECTORY = Path("recipes")
ABOUT = "recipe"
"""The key that is no parameter."""
SYNCHRONISED = "train.sync_batch_norm"


class Aim(Section):
    """The figure that a recipe is to reach.

    Attributes:
        miou: Published mIoU in per cent; None where no respected figure exists.
        iterations: Optimiser steps after which it was measured.
        source: Where the figure stands, or why there is none.
    """

    miou: Annotated[float, Field(gt=0, lt=100)] | None
    iterations: Annotated[int, Field(ge=1)]
    source: str


class Needs(Section):
    """The data that the figure belongs to.

    Attributes:
        name: As people call it.
        train_images: Images of its train split.
        val_images: Images of its val split.
        get: The command that puts it in place.
    """

    name: str
    train_images: Annotated[int, Field(ge=1)]
    val_images: Annotated[int, Field(ge=1)]
    get: str


class About(Section):
    """What a recipe is.

    Attributes:
        title: In a few words.
        aim: The figure.
        network: The network that the figure belongs to.
        data: The data that the figure belongs to.
        differences: What is not as in the published training.
    """

    title: str
    aim: Aim
    network: str
    data: Needs
    differences: tuple[str, ...]


@dataclass(frozen=True)
class Recipe:
    """A recipe as read.

    Attributes:
        path: Its file.
        about: What it is.
        values: Parameters by dotted key.
    """

    path: Path
    about: About
    values: dict[str, Any]

    @property
    def name(self) -> str:
        """What `segops run --recipe` takes: the file's name without its suffix."""
        return self.path.stem


def read(path: Path) -> Recipe:
    """Read a recipe; whether its parameters are legal shows when it is put over ``params.yaml``.

    Raises:
        SegopsError: The file is missing, is not YAML, or what it says of itself is incomplete or
            has unknown keys.
    """
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SegopsError(f"{path}: no such recipe. `segops recipes` lists them.") from None
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise SegopsError(f"{path}: not readable as YAML: {error}") from None
    if not isinstance(tree, dict) or not isinstance(tree.get(ABOUT), dict):
        raise SegopsError(
            f"{path}: not a recipe; expected sections of params.yaml, and a mapping `{ABOUT}` with "
            f"{', '.join(About.model_fields)}."
        )
    try:
        about = About.model_validate(tree.pop(ABOUT))
    except ValidationError as error:
        lines = [f"  {ABOUT}.{one}" for one in problems(About, error.errors())]
        raise SegopsError("\n".join([f"{path}: not a usable recipe:", *lines])) from None
    return Recipe(path, about, overlay_values(tree))


def every(root: Path) -> list[Recipe]:
    """The recipes of a checkout, by name.

    Raises:
        SegopsError: One of them is not readable.
    """
    return [read(path) for path in sorted((root / DIRECTORY).glob("*.yaml"))]


def find(root: Path, name: str) -> Recipe:
    """The recipe that a user means.

    Args:
        root: The checkout.
        name: A file's name in ``recipes/`` without its suffix, or the path of a recipe.

    Raises:
        SegopsError: There is none of that name; those that there are are named.
    """
    if name.endswith((".yaml", ".yml")) or "/" in name:
        return read(Path(name))
    path = root / DIRECTORY / f"{name}.yaml"
    if path.is_file():
        return read(path)
    names = [one.stem for one in sorted((root / DIRECTORY).glob("*.yaml"))]
    close = difflib.get_close_matches(name, names, n=1)
    hint = f" Did you mean {close[0]}?" if close else ""
    raise SegopsError(
        f"{name}: no such recipe in {DIRECTORY}/.{hint} There "
        f"{'are ' + ', '.join(names) if names else 'is none'}; the path of a file is taken too."
    )


def put_over(root: Path, recipe: Recipe) -> Edit:
    """The change of ``params.yaml`` that puts a recipe to use; nothing is written.

    Where one device trains there is no other to synchronise batch norm with, and parameters that
    ask for it are refused; the recipe's `train.sync_batch_norm` is then taken as false.

    Raises:
        SegopsError: The recipe holds an unknown key or a bad value; file and key are named.
    """
    place = recipe.path
    if place.is_relative_to(root):
        place = place.relative_to(root)
    values = recipe.values
    if values.get(SYNCHRONISED) is True and _on_one_device(root, values):
        values = values | {SYNCHRONISED: False}
    return plan(root, values, str(place))


def _on_one_device(root: Path, values: dict[str, Any]) -> bool:
    train = load_params(root).train
    numbers = {"train.devices": train.devices, "train.nodes": train.nodes}
    return all(values.get(key, number) == 1 for key, number in numbers.items())


def doubts(root: Path, recipe: Recipe, settings: Params) -> list[str]:
    """What stands between the workspace and the recipe's figure, a sentence or two each.

    Args:
        root: The workspace.
        recipe: The recipe.
        settings: The parameters with the recipe put over them.
    """
    needs = recipe.about.data
    get = f"`{needs.get}` puts {needs.name} in place."
    try:
        layout = open_layout(root / settings.data.path)
        found = {split: len(layout.ids(split)) for split in SPLITS}
    except SegopsError as error:
        return [f"{str(error).splitlines()[0].rstrip('.')}. {get}"]
    wanted = {"train": needs.train_images, "val": needs.val_images}
    said = [
        f"{settings.data.path} holds {found[split]:,} {split} images, the recipe is for "
        f"{wanted[split]:,}: the figure it aims at does not hold for this data. {get}"
        for split in SPLITS
        if found[split] != wanted[split]
    ]
    if settings.data.class_names != VOC_CLASSES:
        said.append(
            "data.classes are not those of VOC: they stay, and the figure does not hold for them."
        )
    return said
