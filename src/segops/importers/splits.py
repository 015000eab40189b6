"""Divides the images of a source into train, val and test."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath, PurePosixPath

import yaml

from segops.importers.files import closest
from segops.runtime.errors import SegopsError
from segops.runtime.images import read_content
from segops.voc.layout import PHOTOGRAPH_SUFFIXES, TEST, TRAIN, VAL

SPELLINGS = {
    **dict.fromkeys(("train", "training"), TRAIN),
    **dict.fromkeys(("val", "valid", "validation", "dev"), VAL),
    **dict.fromkeys(("test", "testing"), TEST),
}
"""Names of splits in other data sets, in lower case."""
UNDIVIDED = "trainval"
"""Name of the list of train and val, in lower case; it counts as train where both have no list."""
VAL_SHARE = 0.2
"""Share of val where neither the source nor the user says how to divide the images."""


@dataclass(frozen=True)
class Division:
    """How a user wants the images to be divided.

    Attributes:
        lists: A directory of lists (``train.txt``, ``val.txt``, ``test.txt``), one of these files
            alone, or a YAML or JSON file with a list of images for each split; None: as the source
            says, else by `shares`.
        shares: Split -> share of the images, within 0 to 1; train gets the rest.
        group: A pattern that is searched in each id. Images with the same first group (or the same
            match, in a pattern without groups) stay together.
        stratify: Whether the classes are spread evenly over the splits.
    """

    lists: Path | None = None
    shares: Mapping[str, float] = field(default_factory=dict)
    group: str | None = None
    stratify: bool = False


def parsed_shares(pairs: Mapping[str, str]) -> dict[str, float]:
    """Read shares such as `{"val": "0.2", "test": "0.1"}`.

    Raises:
        SegopsError: A split or a share is not usable.
    """
    shares: dict[str, float] = {}
    for name, text in pairs.items():
        try:
            share = float(text)
        except ValueError:
            share = -1.0
        if name not in (VAL, TEST) or not 0 < share < 1:
            raise SegopsError(
                f"--share: {name}={text}: expected shares of val and test within 0 and 1, as in "
                "val=0.2,test=0.1; train gets the rest."
            )
        shares[name] = share
    if sum(shares.values()) >= 1:
        raise SegopsError("--share: the shares leave nothing for train; their sum must be below 1.")
    return shares


@dataclass(frozen=True)
class Lists:
    """Which images a split holds, as lists say.

    Attributes:
        path: Where the lists stand.
        entries: Split and line, for each line.
    """

    path: Path
    entries: tuple[tuple[str, str], ...]

    def match(self, photographs: Mapping[Path, str]) -> tuple[dict[Path, str], list[str]]:
        """Return photograph -> split, and a line for each problem.

        A line is a photograph's path, with or without suffix, or the id of its image. Of several
        photographs of a name the one counts whose directories are most like those of the line. Some
        lists name image and mask, separated by a space or a tab.

        Args:
            photographs: Photograph -> id of its image.
        """
        by_name: dict[str, dict[Path, None]] = {}
        for photograph, image_id in photographs.items():
            for name in (photograph.stem, image_id):
                by_name.setdefault(name, {})[photograph] = None
        splits: dict[Path, str] = {}
        absent, twice, problems = [], [], []
        for split, line in self.entries:
            names = dict.fromkeys([line, *line.split("\t")[:1], *line.split()[:1]])
            found = next(filter(None, (_ends(name, by_name) for name in names)), [])
            if not found:
                absent.append(line)
            elif len(found) > 1:
                problems.append(
                    f"{self.path}: {line} may be {', '.join(map(str, found[:5]))}. Name its "
                    "directory in the list"
                )
            elif splits.setdefault(found[0], split) != split:
                twice.append(line)
        for names_, words in ((absent, "listed images are not there"), (twice, "in two splits")):
            if names_:
                shown = ", ".join(names_[:20]) + (", …" if len(names_) > 20 else "")
                problems.append(f"{self.path}: {len(names_)} {words}: {shown}")
        return splits, problems


def _ends(name: str, by_name: Mapping[str, Iterable[Path]]) -> list[Path]:
    """Return the photographs that a name in a list may mean."""
    path = PurePosixPath(name.replace("\\", "/"))
    stem = path.stem if path.suffix.lower() in PHOTOGRAPH_SUFFIXES else path.name
    return closest(by_name.get(stem, ()), path.parts[:-1])


def find_lists(directory: Path) -> Lists | None:
    """Read ``train.txt``, ``val.txt`` and ``test.txt`` in any spelling; None: there are none.

    Where both train and val are missing, ``trainval.txt`` is the list of train.

    Raises:
        SegopsError: A list cannot be read.
    """
    files = sorted(directory.glob("*.txt"))
    splits = [(SPELLINGS.get(file.stem.lower()), file) for file in files]
    if not {TRAIN, VAL} & {split for split, _ in splits}:
        splits += [(TRAIN, file) for file in files if file.stem.lower() == UNDIVIDED]
    entries = [entry for split, file in splits if split for entry in _listed(split, file)]
    return Lists(directory, tuple(entries)) if entries else None


def _listed(split: str, file: Path) -> list[tuple[str, str]]:
    return [(split, line.strip()) for line in _text(file).splitlines() if line.strip()]


def read_lists(path: Path) -> Lists:
    """Read which images a split holds.

    Args:
        path: A directory of text files, one of them, or a YAML or JSON file; see
            :class:`Division`.

    Raises:
        SegopsError: It cannot be read, or names no split.
    """
    one = {**SPELLINGS, UNDIVIDED: TRAIN}.get(path.stem.lower())
    if path.is_dir():
        lists = find_lists(path)
    elif one is not None and path.suffix.lower() == ".txt":
        lists = Lists(path, tuple(_listed(one, path)))
    else:
        lists = _tabled(path)
    if lists is None or not lists.entries:
        raise SegopsError(
            f"{path}: names no split; expected train.txt, val.txt or test.txt in a directory, or "
            "a YAML or JSON file with the keys train, val or test and a list of images each."
        )
    return lists


def _text(path: Path) -> str:
    try:
        return read_content(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SegopsError(f"{path}: the lists of splits cannot be read: {error}.") from None


def _tabled(path: Path) -> Lists | None:
    try:
        # Not constructed: 2011_000003 would be a number, and of a key given twice the last counts.
        tree = yaml.compose(_text(path), yaml.BaseLoader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise SegopsError(f"{path}: the lists of splits cannot be read: {error}.") from None
    entries: list[tuple[str, str]] = []
    given: set[str] = set()
    for key, value in tree.value if isinstance(tree, yaml.MappingNode) else ():
        split = SPELLINGS.get(str(key.value).lower())
        if split is None or value.value == "":  # a key without a value names nothing
            continue
        name = key.value
        if name in given:
            raise SegopsError(f"{path}: {name}: given twice; expected once.")
        given.add(name)
        items = value.value if isinstance(value, yaml.SequenceNode) else [value]
        lines = [str(one.value).strip() for one in items if isinstance(one, yaml.ScalarNode)]
        if items == [value] or len(lines) < len(items) or not all(lines):
            raise SegopsError(
                f"{path}: {name}: expected a list of names of images, as in `{name}: [a.png, "
                "b.png]`."
            )
        entries += [(split, line) for line in lines]
    return Lists(path, tuple(entries)) if entries else None


def split_of_path(relative: PurePath) -> str | None:
    """Return the split that a directory of a path names; None without one."""
    splits = [SPELLINGS[part.lower()] for part in relative.parts[:-1] if part.lower() in SPELLINGS]
    return splits[0] if splits else None


def id_below(directories: Iterable[str], name: str) -> str:
    """Return the id of an image in directories: their names but those of splits, and its own."""
    return "_".join([*(one for one in directories if one.lower() not in SPELLINGS), name])


def divide(
    division: Division,
    given: Mapping[str, str | None],
    classes: Mapping[str, Iterable[int]],
    before: Mapping[str, str],
) -> dict[str, str]:
    """Return the split of each image.

    An image keeps the split that is given. Where no split is given, or val has no image, images are
    taken by a stable hash of the id or group, or by their classes: images that are added later move
    no other image.

    Args:
        division: What the user wants; its lists are in `given` already.
        given: Image id -> its split, or None.
        classes: Image id -> ids of the classes that it holds, for `stratify`.
        before: Image id -> its split in the data that are in place, if they were divided in the
            same way; these are kept.

    Returns:
        Image id -> split. Images without a split are left out.

    Raises:
        SegopsError: The pattern of `group` is none or does not fit an id, a split has no image, or
            val is given and `division` would do nothing.
    """
    splits = {image_id: split for image_id, split in given.items() if split is not None}
    shares = dict(division.shares)
    if VAL in splits.values():
        idle = {"--share": shares, "--group": division.group, "--stratify": division.stratify}
        if useless := [option for option, value in idle.items() if value]:
            raise SegopsError(
                f"{', '.join(useless)}: does nothing, because the source or --lists says which "
                "images are val. Leave it out, or name all splits with --lists."
            )
    else:
        shares = shares or {VAL: VAL_SHARE}
        free = [image_id for image_id in given if splits.get(image_id, TRAIN) == TRAIN]
        groups = _groups(free, division.group)
        kept = {
            key: before[one]
            for key, ids in groups.items()
            for one in ids
            if before.get(one) in (TRAIN, *shares)
        }
        if division.stratify:
            chosen = _stratified(groups, shares, classes, kept)
        else:
            chosen = _by_rank(groups, shares, kept)
        for key, split in chosen.items():
            splits |= dict.fromkeys(groups[key], split)
    for split in (TRAIN, VAL):
        if split not in splits.values():
            raise SegopsError(
                f"no image is in {split} ({len(given)} images in all). Change --share, --group or "
                "the lists."
            )
    return {image_id: splits[image_id] for image_id in given if image_id in splits}


def _groups(ids: Sequence[str], pattern: str | None) -> dict[str, list[str]]:
    """Return key of a group -> its images; without a pattern each image is a group."""
    groups: dict[str, list[str]] = {}
    try:
        compiled = re.compile(pattern or "(.*)", re.DOTALL)
    except re.error as error:
        raise SegopsError(f"--group {pattern!r}: no regular expression: {error}.") from None
    for image_id in ids:
        match = compiled.search(image_id)
        if match is None:
            raise SegopsError(f"--group {pattern!r} does not fit {image_id}; it must fit each id.")
        groups.setdefault(match[1] if compiled.groups else match[0], []).append(image_id)
    return groups


def _rank(key: str) -> float:
    """A hash in [0, 1), spread evenly over keys."""
    digest = hashlib.sha256(f"split\t{key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _by_rank(
    groups: Mapping[str, Sequence[str]], shares: Mapping[str, float], kept: Mapping[str, str]
) -> dict[str, str]:
    """Return the split of each group by its rank; of enough groups, each split gets one.

    Groups that are `kept` stay in their split: chance may have put none into val, and one of more
    groups now would.
    """
    splits = dict(kept)
    for key in groups:
        if key in kept:
            continue
        rank, low = _rank(key), 0.0
        splits[key] = TRAIN
        for split, share in shares.items():
            if low <= rank < low + share:
                splits[key] = split
            low += share
    by_rank = sorted(groups, key=_rank)
    if len(groups) > len(shares):
        # Of a few groups chance may put none into a split.
        for split, key in ((TRAIN, by_rank[-1]), *zip(shares, by_rank, strict=False)):
            if split not in splits.values():
                splits[key] = split
    return splits


def _stratified(
    groups: Mapping[str, Sequence[str]],
    shares: Mapping[str, float],
    classes: Mapping[str, Iterable[int]],
    kept: Mapping[str, str],
) -> dict[str, str]:
    """Return the split of each group so that each class is divided by the shares.

    Groups that are `kept` stay in their split and count in its share.

    Source: iterative stratification (Sechidis, Tsoumakas and Vlahavas, ECML 2011), on the images
    that hold a class: the rarest class is divided first.
    """
    held = {
        key: Counter(label for image_id in ids for label in classes[image_id])
        for key, ids in groups.items()
    }
    total: Counter[int] = sum(held.values(), Counter())
    targets = {**shares, TRAIN: 1 - sum(shares.values())}
    need = {split: {one: share * n for one, n in total.items()} for split, share in targets.items()}
    room = {split: share * len(groups) for split, share in targets.items()}
    splits: dict[str, str] = {}

    def put(key: str, split: str) -> None:
        splits[key] = split
        room[split] -= 1
        for label, number in held[key].items():
            need[split][label] -= number

    for key, split in kept.items():
        put(key, split)
    for label, _ in sorted(total.items(), key=lambda item: (item[1], item[0])):
        for key in sorted(groups, key=_rank):
            if key in splits or label not in held[key]:
                continue
            put(key, max(targets, key=lambda split: (need[split][label], room[split], split)))
    for key in sorted(set(groups) - set(splits), key=_rank):  # images of void alone
        put(key, max(targets, key=lambda split: (room[split], split)))
    return splits
