"""`segops evaluate`: scores a model, and compares prediction settings."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.markup import escape
from rich.table import Table

from segops.cli.common import checkout, console
from segops.cli.metrics import class_table, metrics_table
from segops.report.figures import level, sentence
from segops.runtime.errors import SegopsError

if TYPE_CHECKING:
    from pathlib import Path

    from segops.data.store import PackedStore
    from segops.evaluate.variants import VariantResult
    from segops.release.looks import Look


def evaluate(
    model: Annotated[
        str | None,
        typer.Argument(
            help="models:/NAME@ALIAS, models:/NAME/VERSION, or a bundle's directory; "
            "left out: this checkout's model.",
            show_default=False,
        ),
    ] = None,
    compare: Annotated[
        bool,
        typer.Option(
            "--compare", help="Score with windows, flip, multi-scale and CRF, and compare them."
        ),
    ] = False,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Score only this many images, the first of val.")
    ] = None,
    corrupted: Annotated[
        bool,
        typer.Option(
            "--robustness", help="Score the images under 15 corruptions in three strengths."
        ),
    ] = False,
    split: Annotated[
        Literal["val", "test"],
        typer.Option(help="The split; each score on test is written down with who and when."),
    ] = "val",
) -> None:
    """Score a model on val or test and show the metrics; no output of the pipeline changes."""
    from segops.voc.layout import TEST

    if split == TEST and (compare or corrupted or limit is not None):
        raise typer.BadParameter(
            "test is scored whole and chooses nothing: leave --compare, --robustness and --limit "
            "out.",
            param_hint="--split",
        )
    if compare and corrupted:
        raise typer.BadParameter("takes no --compare", param_hint="--robustness")
    from segops import files, paths
    from segops.runtime import opener

    root = checkout()
    own = root / paths.SEGMENTER
    if model is None and not (own / opener.MODEL).is_file():
        raise SegopsError(
            f"{own}: no bundle there (it lacks {opener.MODEL}). `segops run` makes it."
        )
    from segops.data.store import PackedStore
    from segops.evaluate import variants
    from segops.evaluate.metrics_file import evaluation
    from segops.evaluate.score import score
    from segops.params.file import load_params
    from segops.predict.seen import of_store, seen_images
    from segops.release.resolve import resolved

    settings, store = load_params(root), PackedStore(root / paths.PACKED)
    looks: list[Look] = []
    if split == TEST:
        looks = _earlier_looks(root, model, store)
    with (
        resolved(model or str(own), root) as bundle,
        files.scratch() as scratch,
    ):
        model_facts = files.read_json(bundle / opener.MODEL)
        hashes = {store.image_sha256(image_id) for image_id in store.ids(split)}
        excluded = seen_images(model_facts, of_store(store, split)) & hashes
        _print_omissions(store, split, limit, excluded)
        how: dict[str, Any] = {
            "threads": settings.hardware.threads, "exclude_sha256": excluded, "limit": limit,
        }  # fmt: skip
        if compare:
            results = variants.compare(bundle, store, split, settings.evaluate, **how)
            _show_variants(results, level(settings.evaluate.confidence))
            return
        if corrupted:
            from segops.evaluate.robustness import robustness

            _show_robustness(robustness(bundle, store, split, **how))
            return
        scores = score(bundle, store, split, scratch / "scores", **how)
    found = evaluation(scores, store, split, settings.evaluate)
    if split == TEST:
        from segops.release.looks import write_down

        test_hash, left_out = store.split_hash(TEST), len(scores.excluded)
        where = write_down(root, model, found, test_hash, left_out, len(looks))
        console.say(f"Written down: {where}.")
    console.print(class_table(found))
    console.print(metrics_table([""], [found]))
    console.say(f"[bold]{escape(sentence(found))}[/]", markup=True)


def _earlier_looks(root: Path, model: str | None, store: PackedStore) -> list[Look]:
    """Print and return the earlier scores on the test split."""
    from segops.release.looks import earlier, listed
    from segops.voc.layout import LISTS, TEST

    if not store.holds(TEST):
        raise SegopsError(
            f"{store.path / TEST}: there is no packed test split. List its images in "
            f"{LISTS}/{TEST}.txt, give each a mask, then `segops run`."
        )
    looks = earlier(root, model, store.split_hash(TEST))
    console.say(listed(looks))
    return looks


def _print_omissions(
    store: PackedStore, split: str, limit: int | None, excluded: frozenset[str]
) -> None:
    ids = store.ids(split)
    if limit is not None and limit < len(ids):
        console.say(
            f"Only the first {limit} of the {len(ids)} images of {split}: the metrics are rough."
        )
    left_out = sum(store.image_sha256(image_id) in excluded for image_id in ids[:limit])
    if left_out:
        console.say(
            f"[yellow]warning:[/] {left_out} of these images are left out: the model was trained "
            "on them.",
            markup=True,
        )


def _show_variants(results: list[VariantResult], at: str) -> None:
    table = Table(title="Prediction settings", title_justify="left")
    table.add_column("variant\n  settings")
    for heading in (
        "mIoU", "boundary\nIoU", "ms per\nimage", f"difference of mIoU\n{at} interval",
    ):  # fmt: skip
        table.add_column(heading, justify="right", no_wrap=True)
    for result in results:
        table.add_row(
            f"{escape(result.variant.name)}\n  [dim]{escape(result.variant.description)}[/]",
            f"{result.miou:.4f}",
            _figure(result.boundary_iou, 4),
            _figure(result.milliseconds, 1),
            _difference(result),
        )
    console.print(table, markup=True)
    console.say(
        f"Differences are from {results[0].variant.name}, with the {at} interval of the paired "
        "bootstrap. Times are medians of the prediction alone.\nTo choose settings, set `predict` "
        "in params.yaml; `segops run` packages the model again without training."
    )


def _show_robustness(found: dict[str, Any]) -> None:
    table = Table(title="mIoU under corruptions", title_justify="left")
    table.add_column("corruption")
    for heading in (*(f"strength {one}" for one in found["strengths"]), "mean"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in found["corruptions"]:
        figures = [_figure(one, 4) for one in (*row["miou"], row["mean"])]
        table.add_row(row["name"], *figures)
    console.print(table)
    retained = "" if found["retained"] is None else f", {found['retained']:.1%} of it"
    console.say(
        f"mIoU {found['clean']:.4f} on {found['images']} images as they are; mean under all "
        f"corruptions {found['mean']:.4f}{retained}."
    )


def _difference(result: VariantResult) -> str:
    found = result.difference
    if found is None:
        return ""
    interval = "" if math.isnan(found.low) else f"{found.low:+.4f} to {found.high:+.4f}"
    return f"{found.difference:+.4f}\n{interval}"


def _figure(value: float | None, decimals: int) -> str:
    return "none" if value is None else f"{value:.{decimals}f}"
