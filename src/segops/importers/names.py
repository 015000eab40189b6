"""Finds photographs and masks in a directory, and by their names which of them belong together."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product, takewhile
from pathlib import Path, PurePosixPath

from segops.importers.files import files_below, is_litter, place
from segops.importers.splits import SPELLINGS
from segops.runtime.errors import SegopsError
from segops.voc.layout import PHOTOGRAPH_SUFFIXES

IMAGE_NAMES = ("images", "image", "imgs", "img", "jpegimages", "photos", "rgb")
MASK_NAMES = (
    *("masks", "mask", "labels", "label", "annotations", "annotation", "segmentationclass"),
    *("gt", "groundtruth", "ground_truth", "ann", "seg", "lbl"),
)
"""Names of directories of photographs and of masks, in lower case, by which they are known."""
AFFIXES = tuple(
    f"{separator}{name}"
    for separator in "_-."
    for name in ("mask", "masks", "label", "labels", "gt", "seg", "segmentation", "l")
)
"""Ends of a mask's name, before its suffix, that its photograph lacks."""
DIRECTORY_ENDS = (*AFFIXES, "annot")
"""Ends of the name of a directory of masks beside that of its photographs, which may have one of
the next."""
IMAGE_ENDS = ("", *(f"{separator}{name}" for separator in "_-" for name in IMAGE_NAMES))
WILDCARDS = "*?["


@dataclass(frozen=True)
class Named:
    """A file and the names by which it is looked for.

    Attributes:
        path: The file.
        own: Its path without suffix and without directories that tell photographs from masks.
        key: As `own`; of a directory what a pattern's only `*` stands for, where this is a split.
        starred: As `own`; of each part what a pattern's only `*` stands for.
    """

    path: Path
    own: str
    key: str
    starred: str


Files = dict[str, list[Named]]
"""Key -> its files."""


def found_files(path: Path, images: str | None, masks: str | None) -> tuple[Files, Files]:
    """Return the photographs and the masks; arguments as of :func:`segops.importers.folder.read`.

    Raises:
        SegopsError: There is none.
    """
    photographs = [*_usual(path, IMAGE_NAMES)] if images is None else [*_given(path, images)]
    labels = [*_usual(path, MASK_NAMES)] if masks is None else [*_given(path, masks)]
    if images is None and masks is None and not (photographs and labels):
        photographs, labels = _beside(path) or (photographs, labels)
    both = {one.path for one in photographs} & {one.path for one in labels}
    # Of `*/*.png` and `*_labels/*.png` the pattern that takes less says what its files are.
    if len(both) == len(labels) < len(photographs):
        photographs = [one for one in photographs if one.path not in both]
    elif len(both) == len(photographs) < len(labels):
        labels = [one for one in labels if one.path not in both]
    return (
        _by_key(photographs, path, "--images", images, IMAGE_NAMES),
        _by_key(labels, path, "--masks", masks, MASK_NAMES),
    )


def _by_key(
    named: Iterable[Named], path: Path, option: str, given: str | None, usual: Sequence[str]
) -> Files:
    files: Files = {}
    for one in named:
        files.setdefault(one.key, []).append(one)
    if not files:
        where = f"{option} {given}" if given else f"directories called {', '.join(usual[:4])}"
        raise SegopsError(
            f"{path}: no file of suffix {', '.join(PHOTOGRAPH_SUFFIXES)} in {where}. {option} "
            "names another directory, or a pattern of files."
        )
    return files


def _usual(path: Path, names: Collection[str]) -> Iterator[Named]:
    """Yield what lies in directories of these names."""
    for file in files_below(path, PHOTOGRAPH_SUFFIXES):
        *directories, _ = file.relative_to(path).parts
        kept = [part for part in directories if part.lower() not in names]
        if len(kept) < len(directories):
            yield _plain(file, kept)


def _plain(file: Path, directories: Iterable[str]) -> Named:
    key = "/".join([*directories, file.stem])
    return Named(file, key, key, key)


def _beside(path: Path) -> tuple[list[Named], list[Named]] | None:
    """Return what lies in directories such as `train`, and in those such as `train_labels`."""
    files = {file: file.relative_to(path) for file in files_below(path, PHOTOGRAPH_SUFFIXES)}
    directories = {parent for file in files.values() for parent in file.parents}
    keys: dict[Path, tuple[str, bool]] = {}
    for directory in sorted(directories):
        for end in DIRECTORY_ENDS:
            if directory.name.lower().endswith(end):
                stem = directory.name[: -len(end)]
                beside = {directory.parent / f"{stem}{one}" for one in IMAGE_ENDS} & directories
                if stem and beside:
                    keys |= {directory: (stem, True)} | dict.fromkeys(beside, (stem, False))
    photographs: list[Named] = []
    labels: list[Named] = []
    for file, relative in files.items():
        above = [keys[one] for one in relative.parents if one in keys]
        parts = [keys[one][0] if one in keys else one.name for one in relative.parents][-2::-1]
        if above:
            (labels if any(of_masks for _, of_masks in above) else photographs).append(
                _plain(file, parts)
            )
    return (photographs, labels) if keys else None


def _given(path: Path, given: str) -> Iterator[Named]:
    """Yield what lies in a directory or is of a pattern that the user names."""
    parts = Path(given).parts
    fixed = list(takewhile(lambda part: not _is_wild(part), parts))
    base = place(str(Path(*fixed)), path) if fixed else path
    pattern = parts[len(fixed) :]
    if not pattern:
        if base.is_dir():
            for file in files_below(base, PHOTOGRAPH_SUFFIXES):
                yield _plain(file, file.relative_to(base).parts[:-1])
        return
    *before, last = pattern
    first = list(takewhile(lambda part: part != "**", before))
    rest = list(takewhile(lambda part: part != "**", reversed(before[len(first) :])))[::-1]
    for file in sorted(base.glob(str(Path(*pattern)))):
        *directories, _ = file.relative_to(base).parts
        wild = ["*"] * (len(directories) - len(first) - len(rest))
        pairs = zip(directories, [*first, *wild, *rest], strict=True)
        kept = [(name, part) for name, part in pairs if _is_wild(part)]
        if (
            file.suffix.lower() not in PHOTOGRAPH_SUFFIXES
            or file.is_dir()
            or is_litter([name for name, _ in kept], file.name)
        ):
            continue
        names = [name for name, _ in kept]
        stars = [_starred(name, part) for name, part in kept]
        # The `train` of `train_images` is a split; the rest of another name would mean nothing.
        key = [two[two[1].lower() in SPELLINGS] for two in zip(names, stars, strict=True)]
        yield Named(
            path=file,
            key="/".join([*key, file.stem]),
            own="/".join([*names, file.stem]),
            starred="/".join([*stars, _starred(file.stem, PurePosixPath(last).stem)]),
        )


def _is_wild(part: str) -> bool:
    return bool(set(part) & set(WILDCARDS))


def _starred(name: str, pattern: str) -> str:
    """Return what the only `*` of a pattern stands for in a name; the name without one."""
    around = pattern.split("*")
    if len(around) != 2:
        return name
    # `[[]`, `[*]` and `[?]` are how a pattern writes the character.
    start, end = (re.sub(r"\[([\[*?])\]", r"\1", part) for part in around)
    return name.removeprefix(start).removesuffix(end)


def match(photographs: Collection[Named], masks: Collection[Named]) -> dict[Path, list[Path]]:
    """Return photograph -> its mask, or none, or several.

    What a pattern says comes before whole names, these before names without an end, and exact names
    before those in another case or Unicode form. A mask that is found so is no other's later.
    """
    found: dict[Path, list[Path]] = {photograph.path: [] for photograph in photographs}
    missing, left = list(photographs), list(masks)
    for alike, of_photograph, of_mask in product(ALIKE, PHOTOGRAPH_FORMS, MASK_FORMS):
        if not missing:
            break
        by_name: dict[str, list[Path]] = defaultdict(list)
        for mask in left:
            for name in {alike(name) for name in of_mask(mask)}:
                by_name[name].append(mask.path)
        for photograph in missing:
            found[photograph.path] = by_name.get(alike(of_photograph(photograph)), [])
        taken = {mask for photograph in missing for mask in found[photograph.path]}
        missing = [photograph for photograph in missing if not found[photograph.path]]
        left = [mask for mask in left if mask.path not in taken]
    return found


def _without_ends(mask: Named) -> list[str]:
    return [
        name[: -len(end)]
        for name in (mask.starred, mask.own)
        for end in AFFIXES
        if name.lower().endswith(end)
    ]


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name.casefold())


ALIKE: tuple[Callable[[str], str], ...] = (str, _folded)
PHOTOGRAPH_FORMS: tuple[Callable[[Named], str], ...] = (
    lambda one: one.starred,
    lambda one: one.own,
    lambda one: PurePosixPath(one.own).name,
)
MASK_FORMS: tuple[Callable[[Named], Sequence[str]], ...] = (
    lambda one: (one.starred,),
    lambda one: (one.own,),
    _without_ends,
)
