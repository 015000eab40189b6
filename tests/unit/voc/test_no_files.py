"""A pipe, device, socket or dead link among the data is a finding; nothing waits for it."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from segops.files import require_files
from segops.importers.splits import read_lists
from segops.quality.facts import scan
from segops.runtime.errors import SegopsError
from segops.runtime.images import image_size, read_content
from segops.voc.layout import Layout, open_layout
from segops.voc.use import use

LIST = "ImageSets/Segmentation"


def pipe(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def bound_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        # The address itself may not be longer than about 100 bytes.
        link = Path(f"/tmp/segops-{os.getpid()}")
        link.symlink_to(path.parent)
        try:
            server.bind(f"{link}/{path.name}")
        finally:
            link.unlink()


def directory(path: Path) -> None:
    path.mkdir()


def dead_link(path: Path) -> None:
    path.symlink_to("nowhere")


def link_to_itself(path: Path) -> None:
    path.symlink_to(path.name)


KINDS = {
    pipe: "not a file but a pipe",
    device: "not a file but a device",
    bound_socket: "not a file but a socket",
    directory: "not a file but a directory",
    dead_link: "no such file",
    link_to_itself: "Too many levels of symbolic links",
}


@pytest.mark.parametrize(("make", "words"), KINDS.items())
def test_what_is_no_file_is_a_finding(
    make: Callable[[Path], None], words: str, tiny_voc: Path, tmp_path: Path
) -> None:
    layout = Layout(tiny_voc)
    first, second, *_ = layout.ids("train")
    photograph, mask = layout.image_path(first), layout.mask_path(second)
    for path in (photograph, mask):
        path.unlink()
        make(path)
    facts = scan(layout, 2).set_index("image_id")
    assert words in facts["image_error"][first]
    assert words in facts["mask_error"][second]
    assert facts["image_error"].notna().sum() == facts["mask_error"].notna().sum() == 1
    with pytest.raises(SegopsError) as refused:
        use(tiny_voc, tmp_path / "target")
    for path in (photograph, mask):
        assert f"{path.relative_to(tiny_voc)}: " in str(refused.value)
    assert not (tmp_path / "target").exists()
    for read in (read_content, image_size):
        with pytest.raises(SegopsError, match=r"not a file but|no such file|symbolic links"):
            read(photograph)


@pytest.mark.parametrize("split", ["train", "val", "test"])
@pytest.mark.parametrize(("make", "words"), KINDS.items())
def test_a_list_that_is_no_file_is_named(
    make: Callable[[Path], None], words: str, split: str, tiny_voc: Path
) -> None:
    path = tiny_voc / LIST / f"{split}.txt"
    path.unlink(missing_ok=True)
    make(path)
    for read in (open_layout, lambda root: read_lists(root / LIST)):
        with pytest.raises(SegopsError) as refused:
            read(tiny_voc)
        assert str(path) in str(refused.value)
        assert words in str(refused.value)


@pytest.mark.parametrize("make", [pipe, device, dead_link, link_to_itself])
def test_what_dvc_would_wait_for_is_listed(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path / "one")
    with pytest.raises(SegopsError, match=f"remove what is no file:\n  {tmp_path}/one: "):
        require_files(tmp_path)
