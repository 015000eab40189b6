"""Whether a packed store holds what the files of its data set hold."""

from __future__ import annotations

from segops.data.store import PackedStore
from segops.runtime.errors import SegopsError
from segops.voc.hashes import files_hash
from segops.voc.layout import Layout


def require_packed_from(store: PackedStore, layout: Layout) -> None:
    """Raise where train and val of a packed store are not those of a data set's files.

    Every listed file is read.

    Raises:
        SegopsError: They are not; or as :meth:`Layout.ids`.
    """
    if files_hash(layout, store.class_names) != store.data_hash:
        raise SegopsError(
            f"{store.path}: packed from other files than {layout.root} holds now. "
            "`dvc repro prepare` packs them again."
        )
