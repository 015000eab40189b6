"""What validation says of images that show the same picture."""

from __future__ import annotations

from collections.abc import Sequence

from segops.quality.checks import DataCheck, Finding, Notice
from segops.quality.duplicates import Duplicate
from segops.voc.layout import LISTS
from segops.words import counted

_NAMED = 10
_KEY = "validate.max_near_duplicates"


def allowed(pairs: Sequence[Duplicate], most: int | None) -> tuple[DataCheck, ...]:
    """The check that at most `most` pairs lie in different splits; none where `most` is None.

    Equal pixels in two splits do not count: they always fail, as equal files do.
    """
    if most is None:
        return ()
    across = [pair for pair in pairs if pair.across and not pair.same_pixels]
    check = DataCheck(
        name="near-duplicates across splits",
        expected=f"At most {counted(most, 'pair')} of images in different splits show the same "
        "picture, resized, compressed anew, slightly cropped, brightened or mirrored.",
        passed=len(across) <= most,
        observed=f"{counted(len(across), 'pair')}.",
        action=f"Remove one image of each pair from the lists, or raise {_KEY}.",
        findings=tuple(
            Finding(f"{LISTS}/{pair.other_split}.txt", _told(pair))
            for pair in across
            if len(across) > most
        ),
    )
    return (check,)


def notices(pairs: Sequence[Duplicate], most: int | None) -> tuple[Notice, ...]:
    """The warnings about pairs that fail no check; `most` is `validate.max_near_duplicates`."""
    across = [pair for pair in pairs if pair.across and not pair.same_pixels]
    within = [pair for pair in pairs if not pair.across]
    found = []
    if across and most is None:
        found.append(
            Notice(
                "near-duplicates across splits",
                f"{counted(len(across), 'pair')} of images in different splits show the same "
                f"picture: {_named(across)}.",
                _KEY,
                f"Remove one image of each pair from the lists; {_KEY}: 0 refuses such data.",
            )
        )
    if within:
        found.append(
            Notice(
                "near-duplicates within a split",
                f"{counted(len(within), 'pair')} of images show the same picture: "
                f"{_named(within)}.",
                "",
                "Remove one image of each pair from the lists, unless the repetition is meant.",
            )
        )
    return tuple(found)


def _named(pairs: Sequence[Duplicate]) -> str:
    named = [f"{one.image_id} and {one.other_id}" for one in pairs[:_NAMED]]
    if len(pairs) > _NAMED:
        named.append(f"{len(pairs) - _NAMED} more")
    return ", ".join(named)


def _told(pair: Duplicate) -> str:
    mirrored = ", mirrored" if pair.mirrored else ""
    return (
        f"{pair.other_id} shows the same picture as {pair.image_id} of {pair.split} "
        f"(similarity {pair.similarity:.3f}{mirrored})"
    )
