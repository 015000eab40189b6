"""The page of the images to annotate next."""

from __future__ import annotations

import re
from pathlib import Path

from segops.report.gallery import PAGE_LIMIT
from segops.report.next_page import MOST_SHOWN, NextCard, write_next_page
from segops.runtime.classes import VOC


def test_the_page_keeps_its_limit_and_says_what_it_leaves_out(tmp_path: Path) -> None:
    picture = "data:image/jpeg;base64," + 50_000 * "A"
    panels = {"photograph": picture, "draft": picture}
    cards = [
        NextCard(rank, f"{rank}.jpg", 0.5, 0.5, panels, (1,) if rank < 200 else (2,))
        for rank in range(1, MOST_SHOWN + 1)
    ]
    path = tmp_path / "next.html"
    rest = {"chosen": 300, "total": 400, "known": 3, "repeated": 4, "model": "a model"}
    write_next_page(path, cards, VOC, **rest)  # type: ignore[arg-type]
    page = path.read_text()
    said = re.search(r"The last (\d+) images are shown without pictures", page)
    assert said
    assert 0.95 * PAGE_LIMIT < len(page) < PAGE_LIMIT
    assert page.count("<img ") == 2 * (MOST_SHOWN - int(said[1]))
    assert all(f">{card.name}</strong>" in page for card in cards)
    assert VOC.names[1] in page
    assert VOC.names[2] not in page  # of an image without pictures

    write_next_page(path, cards[:9], VOC, **rest)  # type: ignore[arg-type]
    assert "without pictures" not in path.read_text()
