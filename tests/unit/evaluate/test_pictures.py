"""Which images the gallery shows, and which are explained."""

from __future__ import annotations

import numpy as np
import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

from segops.evaluate.bootstrap import COLUMNS
from segops.evaluate.pictures import (
    OF_EACH_ERROR,
    choose_gallery,
    image_scores,
    rank,
    to_explain,
)
from segops.evaluate.score import ERRORS, EXPLAINED
from segops.metrics.wrong_pixels import KINDS

Drawn = dict[tuple[str, int, str], int]


def tables(drawn: Drawn) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Counts and errors of images with 1,000 true pixels each."""
    errors = [(*key, pixels) for key, pixels in sorted(drawn.items())]
    ids = sorted({key[0] for key in drawn} | {"perfect"})
    wrong = {one: sum(row[3] for row in errors if row[0] == one) for one in ids}
    counts = [(one, "", 0, 1000 - wrong[one], 1000, 1000) for one in ids]
    return (
        pd.DataFrame(counts, columns=list(COLUMNS)),
        pd.DataFrame(errors, columns=list(ERRORS)).astype({"pixels": np.int64, "class_id": int}),
    )


some_errors = st.dictionaries(
    st.tuples(
        st.sampled_from([f"image_{number}" for number in range(12)]),
        st.integers(1, 4),
        st.sampled_from(KINDS),
    ),
    st.integers(1, 10),
    max_size=60,
)


@settings(deadline=None, max_examples=25)
@given(some_errors, st.integers(8, 30))
def test_the_worst_of_every_class_and_kind_are_there(drawn: Drawn, most: int) -> None:
    counts, errors = tables(drawn)
    scores = image_scores(counts)
    chosen = choose_gallery(counts, errors, most)
    assert len(chosen) == len(set(chosen)) <= most
    assert [scores[one] for one in chosen] == sorted(scores[one] for one in chosen)
    shuffled = errors.sample(frac=1, random_state=0)
    assert choose_gallery(counts.iloc[::-1], shuffled, most) == chosen
    if len(scores) <= most:
        firsts = errors.sort_values(["pixels", "image_id"], ascending=[False, True])
        firsts = firsts.drop_duplicates(["class_id", "kind"])
        assert set(firsts["image_id"]) <= set(chosen)
        ranked = rank(scores)
        assert {*ranked[:3], *ranked[-3:], ranked[len(ranked) // 2]} <= set(chosen)


def test_no_class_crowds_out_another() -> None:
    drawn: Drawn = {(f"a{number:03d}", 1, "missed"): 500 for number in range(90)}
    drawn |= {(f"b{number:03d}", 2, "confusion"): 1 for number in range(90)}
    chosen = choose_gallery(*tables(drawn), most=15)
    assert len(chosen) == 15
    assert sum(one.startswith("b") for one in chosen) >= OF_EACH_ERROR / 2
    assert chosen[:EXPLAINED] == [f"a{number:03d}" for number in range(EXPLAINED)]


def test_what_is_explained_is_the_class_with_most_wrong_pixels_of_the_worst_images() -> None:
    drawn: Drawn = {
        ("a", 2, "missed"): 30,
        ("a", 3, "boundary"): 20,
        ("a", 3, "confusion"): 20,
        ("b", 4, "false alarm"): 50,
        ("b", 1, "missed"): 50,
        ("c", 1, "missed"): 2,
    }
    counts, errors = tables(drawn)
    assert list(to_explain(counts, errors, 2).items()) == [("b", 1), ("a", 3)]
    assert list(to_explain(counts, errors, 9)) == ["b", "a", "c"]
    assert to_explain(counts, errors, 0) == {}
    assert to_explain(counts, errors.head(0), 5) == {}


def test_an_image_without_a_labelled_pixel_is_not_shown() -> None:
    counts, errors = tables({("a", 1, "missed"): 5})
    void = pd.DataFrame([("void", "", 1, 0, 0, 0)], columns=list(COLUMNS))
    chosen = choose_gallery(pd.concat([counts, void]), errors)
    assert chosen == ["a", "perfect"]
