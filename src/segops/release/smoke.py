"""The smoke test after a promotion: the champion predicts what it was scored with.

A fresh process loads the champion by its alias and predicts the images whose masks the stage
evaluate kept. If it cannot, or the masks differ too much, the alias goes back.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segops import files, paths
from segops.evaluate import kept_masks
from segops.evaluate.kept_masks import KeptMask, KeptMasks
from segops.record.lineage import started_by
from segops.release import fresh, versions
from segops.release.changes import Registry, change, changing, looking, publish
from segops.release.promotion import MASKS
from segops.release.releases import untested
from segops.release.rollback import earlier, usable
from segops.release.versions import CHAMPION, PREVIOUS, Version
from segops.runtime.errors import SegopsError
from segops.threads import cores
from segops.voc.layout import VAL
from segops.words import counted

TOLERANCE = 0.001
"""Largest share of the pixels that may differ on another machine than the one that scored."""
BY = "the smoke test"
"""Who takes a champion back."""
log = logging.getLogger("segops")


@dataclass(frozen=True)
class Smoke:
    """The result of a smoke test.

    Attributes:
        version: The version that was champion.
        passed: Whether it stays champion.
        sentence: The result in words.
        details: Images, pixels and machine, for the ledger.
    """

    version: str
    passed: bool
    sentence: str
    details: dict[str, Any] = field(default_factory=dict)


def smoke(root: Path) -> Smoke | None:
    """Test the champion, once after each promotion, and take it back if it fails.

    A test whose process was interrupted is made by the next call, whatever model that is about.

    Args:
        root: The workspace.

    Returns:
        The result; None where no test is due.

    Raises:
        TransientError: The test could not be made; it stays due.
        MovedError: Another process changed the registry meanwhile.
        SegopsError: The kept masks are not those that the gate decided with; the test stays due.
    """
    with looking(root) as registry:
        entries = registry.ledger.entries()
        promotion = untested(entries, registry.aliases().get(CHAMPION))
        if promotion is None:
            return None
        version = versions.get(registry.store, registry.model, promotion.version)
        digest = str(promotion.details["bundle_digest"])
        decided = entries[promotion.details["decision"] - 1].details
        kept = _kept(registry, version, digest, decided.get(MASKS))
        model = registry.model
    result = _tried(root, model, version.number, digest, kept)
    with changing(root) as registry:
        still = untested(registry.ledger.entries(), registry.aliases().get(CHAMPION))
        if still is None or still.sequence != promotion.sequence:
            log.warning("Another process changed the champion during the smoke test.")
            return None
        registry.ledger.append(
            "smoke",
            verdict="passed" if result.passed else "failed",
            reason=result.sentence,
            by=started_by(),
            version=version.number,
            run_id=version.run_id,
            details={"promotion": promotion.sequence, **result.details},
        )
        if result.passed:
            publish(registry, version.run_id)
            return result
        back = _take_back(registry, version, result.sentence)
    after = f"Version {back} is champion again." if back else "There is no champion now."
    sentence = f"{result.sentence} Version {version.number} is withdrawn. {after}"
    return Smoke(version.number, False, sentence, result.details)


def compared(kept: Sequence[KeptMask], masks: Sequence[NDArray[np.uint8]]) -> tuple[int, int]:
    """Return how many pixels of the masks differ from the kept ones, and how many there are."""
    pixels = differing = 0
    for one, mask in zip(kept, masks, strict=True):
        pixels += one.mask.size
        is_same_size = mask.shape == one.mask.shape
        differing += int((mask != one.mask).sum()) if is_same_size else one.mask.size
    return differing, pixels


def _tried(root: Path, model: str, number: str, digest: str, kept: KeptMasks | str) -> Smoke:
    """Let a fresh process predict, and judge what it predicts. `kept` may say why it is missing."""
    uri, name = f"models:/{model}@{CHAMPION}", f"Version {number}, loaded as champion,"
    threads, known = None, list[KeptMask]()
    images: list[NDArray[np.uint8]] = []
    if isinstance(kept, KeptMasks):
        threads = min(int(kept.machine["threads"]), cores())
        known, images = _images(root, kept)
        kept = kept if known else "val's images are not in this checkout"
    try:
        predicted = fresh.predict(root, uri, digest, images, threads=threads)
    except fresh.NotUsableError as error:
        return Smoke(number, False, f"{name} does not predict: {error}")
    details: dict[str, Any] = {"machine": predicted.machine}
    if isinstance(kept, str):
        sentence = f"{name} predicts a synthetic image. Nothing could be compared: {kept}."
        return Smoke(number, True, sentence, details | {"images": 0})
    differing, pixels = compared(known, predicted.masks)
    is_same = predicted.machine == kept.machine
    allowed = 0 if is_same else math.floor(TOLERANCE * pixels)
    place = "on the machine that scored it" if is_same else "on another machine or device"
    details |= {
        "images": len(known),
        "pixels": pixels,
        "differing": differing,
        "allowed": allowed,
        "scored_on": kept.machine,
    }
    sentence = (
        f"{name} predicts {counted(len(known), 'image')} of val {place}: {differing} of {pixels} "
        f"pixels differ from the masks that it was scored with; {allowed} may."
    )
    return Smoke(number, differing <= allowed, sentence, details)


def _kept(
    registry: Registry, version: Version, digest: str, expected: str | None
) -> KeptMasks | str:
    """Return the masks of this artifact, or why there are none.

    They are those of the workspace, else those in the version's run, by the SHA-256 that the
    decision holds.

    Raises:
        SegopsError: The run's are others; then a good champion would be withdrawn, or a bad one
            would pass.
    """
    if expected is None:
        return "its evaluation kept no masks"
    name, client = paths.KEPT_MASKS.as_posix(), registry.store.client
    content = _content(registry.root / name, expected)
    if content is None:
        held = client.list_artifacts(version.run_id, paths.KEPT_MASKS.parent.as_posix())
        if name in {file.path for file in held}:
            with files.scratch() as scratch:
                local = client.download_artifacts(version.run_id, name, str(scratch))
                content = _content(Path(local), expected)
    if content is None:
        raise SegopsError(
            f"{registry.model} version {version.number}: {name} in its run is not the file "
            "that the gate decided with, so its smoke test was not made. Restore the file, or "
            "`segops promote` in the workspace that evaluated this version."
        )
    kept = kept_masks.read(content, name)
    if kept.bundle_digest != digest:
        return "the masks in its run are those of another bundle of the same weights"
    return kept if kept.masks else "its evaluation kept no masks"


def _content(path: Path, sha256: str) -> bytes | None:
    """Return the content of a file with this SHA-256; None where there is no such file."""
    content = path.read_bytes() if path.is_file() else b""
    return content if files.sha256_bytes(content) == sha256 else None


def _images(root: Path, kept: KeptMasks) -> tuple[list[KeptMask], list[NDArray[np.uint8]]]:
    """Return the kept masks whose images are in the workspace's packed val, and these images."""
    if not (root / paths.PACKED / VAL).is_dir():
        return [], []
    from segops.data.store import PackedStore

    store = PackedStore(root / paths.PACKED)
    ids = set(store.ids(VAL))
    known = [
        one
        for one in kept.masks
        if one.image_id in ids and store.image_sha256(one.image_id) == one.sha256
    ]
    return known, [store.image(one.image_id) for one in known]


def _take_back(registry: Registry, version: Version, why: str) -> str | None:
    """Withdraw the champion; return the version that is champion again, if one is usable."""
    past = registry.history()
    back = usable(registry, past, version.number)
    without = (version.number,) if back is None else (version.number, back)
    older = None if back is None else next(earlier(registry, past, *without), None)
    after = {PREVIOUS: older, CHAMPION: back}
    reason = f"The smoke test failed. {why}"
    now = registry.aliases()
    change(registry, "rollback", version.number, version.run_id, reason, now, after, by=BY)
    return back
