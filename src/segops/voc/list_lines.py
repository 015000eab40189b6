"""Lines of lists that hold more than an image's id, or spell it otherwise than the files do."""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from segops.runtime.errors import SegopsError
from segops.runtime.images import read_file
from segops.voc.layout import ALL_SPLITS, IMAGES, LISTS, MASKS, PHOTOGRAPH_SUFFIXES, Layout
from segops.voc.metadata import copy_renamed

_COLUMNS = "further columns"
_DIRECTORY = "a directory"
_SUFFIX = "a suffix"
_SPELLING = "another case or Unicode form"


class _Names:
    """The ids that files have, found by other spellings too."""

    def __init__(self, names: Iterable[str]) -> None:
        self.exact = frozenset(names)
        self._alike: dict[str, list[str]] = defaultdict(list)
        for name in sorted(self.exact):
            self._alike[_key(name)].append(name)

    def find(self, name: str) -> str | None:
        """The id itself, or the only one that differs in case and Unicode form alone."""
        if name in self.exact:
            return name
        alike = self._alike.get(_key(name), [])
        return alike[0] if len(alike) == 1 else None


def require_ids(root: Path, command: str, unlabelled: str | None = None) -> None:
    """Refuse lists whose lines would name photographs if something were stripped from them.

    Args:
        root: A directory in VOC layout.
        command: The command that strips it, for the message.
        unlabelled: Name of a list of images without masks.

    Raises:
        SegopsError: There are such lines; the message says what they look like.
    """
    photographs = _Names(_stems(root / IMAGES))
    masks = _Names(_stems(root / MASKS))
    kinds: Counter[str] = Counter()
    example, count, total = ("", ""), 0, 0
    for _, line in _lines(root, unlabelled):
        total += 1
        found = _stripped(line, photographs)
        if found is None:
            continue
        image_id, kind = found
        if kind is None and image_id not in masks.exact and masks.find(image_id):
            kind = _SPELLING
        if kind is not None:
            example = example if count else (line, masks.find(image_id) or image_id)
            count += 1
            kinds[kind] += 1
    if count:
        raise SegopsError(
            f"{root / LISTS}: {count} of {total} lines are not the names of the files without "
            f"suffix: {example[0]!r} stands for {example[1]!r} ({', '.join(kinds)}). Run "
            f"`{command}`, which takes the names out of the lines and leaves the source as it is."
        )


@contextmanager
def stripped(
    root: Path,
    further: Iterable[str] = (),
    unlabelled: str | None = None,
    metadata: str | None = None,
) -> Iterator[Path]:
    """Yield a directory in VOC layout with links to the files of `root`, and lists of plain ids.

    Lines that name no photograph stay as they are. A mask gets the name of its photograph.
    `further` are directories of bands, `unlabelled` is the list of images without masks, and
    `metadata` the file of metadata, whose ids are taken out of their cells in the same way.
    """
    photographs = _Names(_stems(root / IMAGES))

    def plain(line: str) -> str:
        return (_stripped(line, photographs) or (line,))[0]

    with TemporaryDirectory(prefix="segops-") as name:
        other = Path(name).resolve()
        (other / LISTS).mkdir(parents=True)
        for part in (IMAGES, MASKS, *further):
            if not (root / part).is_dir():  # named when the layout is opened
                continue
            (other / part).mkdir(parents=True)
            for path in sorted((root / part).iterdir()):
                own = photographs.find(path.stem) or path.stem
                with suppress(FileExistsError):
                    (other / part / f"{own}{path.suffix}").symlink_to(path)
        lists: dict[str, list[str]] = defaultdict(list)
        for split, line in _lines(root, unlabelled):
            lists[split].append(plain(line))
        for split, ids in lists.items():
            Layout(other).write_list(split, ids)
        if metadata is not None and (root / metadata).is_file():
            copy_renamed(root / metadata, other / metadata, plain)
        try:
            yield other
        except SegopsError as error:
            raise type(error)(str(error).replace(str(other), str(root))) from None


def _stripped(line: str, names: _Names) -> tuple[str, str | None] | None:
    """The id that a line stands for, and what else it holds; None where no file has such a name."""
    if line in names.exact:
        return line, None
    columns = line.replace(",", " ").split()
    if len(columns) > 1:
        named = {each[0] for one in columns if (each := _stripped(one, names))}
        if len(named) > 1:
            return None  # a photograph with the mask of another
    texts = [(line, _SPELLING)]
    with suppress(IndexError):
        texts.append((columns[0], _COLUMNS))
    texts += [(text.replace("\\", "/").rpartition("/")[2], _DIRECTORY) for text, _ in texts]
    for text, kind in texts:
        if found := names.find(text):
            return found, kind
    for text, kind in texts:
        stem, dot, suffix = text.rpartition(".")
        if f"{dot}{suffix}".lower() in PHOTOGRAPH_SUFFIXES and (found := names.find(stem)):
            return found, _SUFFIX if kind == _SPELLING else kind
    return None


def _key(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _stems(directory: Path) -> list[str]:
    return [path.stem for path in directory.iterdir()] if directory.is_dir() else []


def _lines(root: Path, unlabelled: str | None) -> Iterator[tuple[str, str]]:
    """The split and the text of each line of the lists that can be read."""
    for split in (*ALL_SPLITS, *(() if unlabelled is None else (unlabelled,))):
        with suppress(OSError, UnicodeDecodeError):
            text = read_file(Layout(root).list_path(split)).decode("utf-8-sig")
            yield from ((split, line.strip()) for line in text.splitlines() if line.strip())
