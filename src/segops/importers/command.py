"""Imports a data set as a user asks for it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from segops.edit import Edit, plan
from segops.importers import folder
from segops.importers.formats import FORMATS
from segops.importers.labelling import Rules, labelling, parsed_merges, parsed_pairs, read_colors
from segops.importers.splits import Division, parsed_shares, read_lists
from segops.importers.write import Imported, identified, read_source, write
from segops.params.data import AUTO
from segops.params.file import Params, load_params
from segops.runtime.classes import VOC_CLASSES
from segops.runtime.errors import SegopsError

VOC = "voc"


@dataclass(frozen=True)
class Options:
    """What a user asks for; None and empty: nothing.

    Attributes:
        images: As in the `read` of the formats, like `masks` and `threshold`.
        masks: As there.
        values: Classes of values, `0=background,255=crack`.
        colors: A table for :func:`segops.importers.labelling.read_colors`; `voc`: VOC's colours.
        threshold: As there.
        classes: All class names in id order; `voc`: VOC's.
        merge: `NAME=A,B` each.
        ignore: Labels or names that become void.
        lists: As in :class:`Division`, like `group` and `stratify`.
        share: `val=0.2,test=0.1`.
        group: As there.
        stratify: As there.
        without: Ids of images to leave out.
    """

    images: str | None = None
    masks: str | None = None
    values: str | None = None
    colors: Path | None = None
    threshold: int | None = None
    classes: tuple[str, ...] = ()
    merge: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    lists: Path | None = None
    share: str | None = None
    group: str | None = None
    stratify: bool = False
    without: tuple[str, ...] = ()


def run(form: str, path: Path, root: Path, target: Path, options: Options) -> tuple[Imported, Edit]:
    """Import a data set to `target`, and set `data.classes` in ``params.yaml`` to its classes.

    See :func:`segops.importers.write.write`.

    Args:
        form: One of :data:`FORMATS`.
        path: Its directory or file.
        root: The workspace.
        target: Directory of the result.
        options: What the user asks for.

    Returns:
        What was imported, and the change of ``params.yaml``.

    Raises:
        SegopsError: An option does not fit, or something is wrong with the data.
    """
    if form not in FORMATS:
        known = "".join(f"\n  {name}: {words}" for name, words in FORMATS.items())
        raise SegopsError(f"{form}: no format of this name; expected one of{known}")
    settings = load_params(root)
    names: dict[str, str] = {}
    if options.values is not None:
        names |= parsed_pairs(options.values, "--values")
    classes = VOC_CLASSES if options.classes == (VOC,) else options.classes
    if options.colors is not None:
        is_voc = str(options.colors) == VOC
        names |= folder.voc_colors() if is_voc else read_colors(options.colors)
    shares = parsed_shares(parsed_pairs(options.share or "", "--share"))
    division = Division(options.lists, shares, options.group, options.stratify)
    reading: dict[str, Any] = {"images": options.images}
    if form == "folder":
        reading["lists"] = read_lists(division.lists) if division.lists else None
        reading |= {"masks": options.masks, "threshold": options.threshold}
        reading["colors"] = options.colors is not None
        if not names and options.threshold is not None:
            classes = classes or ("background", "foreground")
            names = dict(zip("01", classes, strict=False))
        elif not names and classes:
            names = folder.names_of_ids(classes)
    else:
        _refuse_others(form, options)
    source = read_source(form, path, **reading)
    rules = Rules(names, parsed_merges(options.merge), frozenset(options.ignore), classes)
    given = {key: value for key, value in asdict(options).items() if value}
    said = {key: str(value) if isinstance(value, Path) else value for key, value in given.items()}
    origin = {"format": form, "source": str(path.resolve()), "options": said}
    # Planned before anything is written: parameters that do not fit the classes are refused.
    try:
        named = labelling(rules, source.labels).classes
    except SegopsError:
        identified(source)  # labels may be unknown because of what is wrong with the source
        raise
    edit = plan(root, _changed_params(settings, named) if named else {})
    how = settings.data.reading
    imported = write(source, target, rules, division, origin, options.without, how)
    edit.write()
    return imported, edit


def _changed_params(settings: Params, classes: tuple[str, ...]) -> dict[str, Any]:
    """Return the parameters that imported classes ask for: dotted key -> value."""
    values: dict[str, Any] = {"data.classes": "voc" if classes == VOC_CLASSES else list(classes)}
    required = settings.validate_.required_classes
    if required != "all" and not set(required) <= set(classes):
        values["validate.required_classes"] = "all"
    # Imported masks hold class numbers, and may lack classes that the parameters name.
    data = settings.data
    if data.ignore:
        values["data.ignore"] = []
    if data.background in data.class_names and data.background not in classes:
        values["data.background"] = AUTO
    if not set(data.colors) <= set(classes):
        values["data.colors"] = {k: list(v) for k, v in data.colors.items() if k in classes}
    floors = settings.gate.min_class_iou
    if not set(floors) <= set(classes):
        values["gate.min_class_iou"] = {k: v for k, v in floors.items() if k in classes}
    return values


def _refuse_others(form: str, options: Options) -> None:
    for name in ("masks", "values", "colors", "threshold"):
        if getattr(options, name) is not None:
            raise SegopsError(f"--{name} belongs to `folder`; {form} names its classes itself.")
