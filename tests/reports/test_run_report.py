import base64
import hashlib
import html
import io
import json
import os
import re
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
import torch
from matplotlib import colormaps
from pages import Elements
from PIL import Image

from empssl.data import MemoryImages, open_images
from empssl.errors import CheckpointError, DataError, UsageError
from empssl.evaluation.encoder import Encoder
from empssl.evaluation.evaluate import evaluate
from empssl.evaluation.examine import examine
from empssl.models import build_network
from empssl.progress import visible
from empssl.reports.charts import envelope
from empssl.reports.run_report import report
from empssl.reports.sample import Sample
from empssl.reports.sections.embedding_map import embedding_map, procrustes
from empssl.reports.sections.label_free import measures
from empssl.reports.sections.neighbors import queries
from empssl.reports.sections.patch_similarity import _heat, patch_similarities, patch_similarity
from empssl.reports.sections.patches import patched
from empssl.reports.sections.scores import scores
from empssl.reports.sections.spectrum import spectrum
from empssl.reports.sections.training_curves import curves
from empssl.runs.checkpoint import Checkpoint
from empssl.runs.run import Run
from empssl.training.recipes import resolve

PAGE = Path("/nowhere")  # its folder, from which links start
HOSTILE = "<script>alert(1)</script>\x1b[31m\n\udcff"


def settings(data: str) -> dict[str, Any]:
    small = {
        "patches": 3,
        "batch": 4,
        "backbone": {"name": "resnet10", "width": 4},
        "projector": {"name": "official", "hidden": 8, "dim": 4},
    }
    place = {"data_dir": None, "download": False, "device": "auto", "devices": 1, "num_nodes": 1}
    return {"data": data, **resolve("demo", small), "split": "train", "seed": 0, **place}


def entry(step: int, **changes: float) -> dict[str, float]:
    return {
        "step": step, "epoch": (step + 1) / 2, "loss": -200.0 - step, "coding_rate": 30.0 + step,
        "similarity": 0.9, "coding_rate_ratio": 0.6, "gradient_norm": 3.0, "lr": 0.3,
        "clip_fraction": 0.5, "patches": 12 * (step + 1), "pflop": 1e-6,
        "patches_per_second": 100.0, "seconds": 2.0,
        **changes,
    }  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve small pictures in two classes."""
    generator = np.random.default_rng(0)
    for index in range(12):
        path = tmp_path / "pictures" / ("cat", "dog")[index % 2] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path)
    return tmp_path / "pictures"


@pytest.fixture
def make(tmp_path: Path, folder: Path) -> Callable[..., Run]:
    """A run directory as training makes it, with weights or without."""

    def make(*, steps: int = 2, weights: bool = True, name: str = "run") -> Run:
        config = settings(str(folder))
        run = Run.create(tmp_path / name, config)
        images = open_images(str(folder), split="train", side=16)
        run.plan = {
            "steps": 2, "steps_per_epoch": 2, "samples": len(images),
            "usable_samples": len(images), "image_side": 16, "patch_side": 12, "view_side": 12,
            "gflop_per_patch": 0.1, "fingerprint": images.fingerprint,
        }  # fmt: skip
        run.environment = {"torch": "2.0"}
        run.metrics_path.write_text("".join(json.dumps(entry(s)) + "\n" for s in range(steps)))
        if weights:
            with torch.random.fork_rng():
                torch.manual_seed(0)
                network = build_network(config["backbone"], config["projector"])
            keys = ("backbone", "projector", "views", "patches")
            state = {"network": {key: config[key] for key in keys}, "image_side": 16}
            run.save_model(Checkpoint({"model": dict(network.state_dict())}, state))
        return run

    return make


def page_of(run: Run, **options: Any) -> str:
    return report(run.path, device="cpu", **options).read_text("utf-8")


def result(accuracy: float, model: str) -> dict[str, Any]:
    return {
        "probe": "linear", "layer": "head", "crops": "grid3", "accuracy": accuracy,
        "train_size": 90, "test_size": 10, "model": model,
    }  # fmt: skip


def sample(count: int, *, labels: torch.Tensor | None = None) -> Sample:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 3, 16, 16), generator=generator, dtype=torch.uint8)
    images = MemoryImages(
        pixels, name="x", split="train", fingerprint="f", labels=labels, class_names=("cat", "dog")
    )
    return Sample.read(images, count)


def test_report_is_written_into_the_run_directory(make: Callable[..., Run]) -> None:
    run = make()
    assert report(run.path, device="cpu") == run.path / "report.html"


def test_report_of_the_same_run_is_the_same(make: Callable[..., Run]) -> None:
    run = make()
    assert page_of(run) == page_of(run)


def test_page_needs_nothing_from_elsewhere(make: Callable[..., Run]) -> None:
    page = page_of(make())
    elements = Elements(page).found
    links = [a[k] for _, a in elements for k in ("src", "href") if k in a]
    files = [a["href"] for tag, a in elements if tag == "a" and not str(a["href"]).startswith("#")]
    assert files  # to images, which are links and no part of the page
    assert all(re.match(r"\.\.?/", str(link)) for link in files)
    own = [link for link in links if link not in files]
    assert all(link is not None and link.startswith(("data:", "#")) for link in own)
    assert not {"link", "iframe", "object"} & {tag for tag, _ in elements}
    assert [a for tag, a in elements if tag == "script"] == [{}]  # and its text is in the page
    assert not re.search(r"url\(|@import|https?://|fetch\(|[\"'(]//", page)


def test_every_picture_has_words_in_its_place(make: Callable[..., Run]) -> None:
    elements = Elements(page_of(make())).found
    pictures = [a for tag, a in elements if tag == "img"]
    drawings = [a for tag, a in elements if tag == "svg"]
    assert len(pictures) > 40  # patches and neighbors are there at all
    assert all(a.get("alt") for a in pictures)
    assert all(a.get("aria-label") or a.get("aria-hidden") for a in drawings)


def test_names_are_shown_and_never_obeyed(make: Callable[..., Run]) -> None:
    run = make()
    run.environment = {"device": HOSTILE}
    line = {"index": 0, "name": HOSTILE, "reason": "truncated", "error": "</style>", "bytes": 1}
    run.bad_samples_path.write_text(json.dumps(line) + "\n")
    page = page_of(run)
    assert page.count("<script") == 1  # the page's own
    assert "\x1b" not in page
    assert html.escape("<script>alert(1)</script>") + r"\x1b[31m\n\udcff" in page


def test_hostile_class_names_are_shown_as_text(make: Callable[..., Run], folder: Path) -> None:
    (folder / "dog").rename(folder / "<img src=x>")
    page = page_of(make())
    assert "<img src=x>" not in page
    assert "&lt;img src=x&gt;" in page


def test_unfinished_run_says_how_to_go_on(make: Callable[..., Run]) -> None:
    page = page_of(make(steps=1))
    assert "1 of 2 steps are done" in page
    assert "--resume" in page


def test_run_without_weights_still_shows_its_curves_and_patches(make: Callable[..., Run]) -> None:
    page = page_of(make(weights=False))
    assert "There are no weights to embed images with" in page
    assert 'aria-label="coding rate against step: first 30, last 31' in page
    assert "Training view 1 of" in page


def test_run_before_its_first_step_still_gets_a_page(tmp_path: Path, folder: Path) -> None:
    run = Run.create(tmp_path / "run", settings(str(folder)))
    assert "No step has been taken yet" in page_of(run)


def test_images_that_are_gone_are_said_to_be(make: Callable[..., Run], folder: Path) -> None:
    run = make()
    folder.rename(folder.with_name("moved"))
    page = page_of(run)
    # At the top with the reason, and in each section that needs them.
    assert page.count("The images cannot be opened any more: ") == 1
    assert page.count("The images cannot be opened any more. ") == 5
    assert "coding rate against step" in page


def test_images_asked_for_must_be_there(make: Callable[..., Run]) -> None:
    with pytest.raises(DataError, match="nowhere"):
        report(make().path, data="nowhere")


def test_other_images_are_not_called_those_of_training(make: Callable[..., Run]) -> None:
    run = make()
    assert "the very views that training drew" in page_of(run)
    assert "views drawn as in training" in page_of(run, data="digits", images=5)


def test_zero_images_are_refused(make: Callable[..., Run]) -> None:
    with pytest.raises(UsageError, match="images is 0"):
        report(make().path, images=0)


def test_directory_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not a run"):
        report(tmp_path)


def test_run_without_scores_says_how_to_get_them(make: Callable[..., Run]) -> None:
    run = make(name="my run")
    assert f"empssl evaluate &#39;{run.path}&#39;" in page_of(run)


def test_baselines_stand_among_the_scores_in_order(make: Callable[..., Run]) -> None:
    run = make()
    content = {
        "dataset": "pets", "protocol": {"frozen": True},
        "results": [result(71.25, "old")],
        "baselines": [result(80.5, "whitened-patches"), result(40.0, "random-0")],
    }  # fmt: skip
    run.save_evaluation("pets", content)
    rows = re.findall(
        r'<tr class="\w+"><td>(.*?)</td>.*?<td class="n"[^>]*>([\d.]+)</td>', page_of(run)
    )
    assert rows == [
        ("whitened patches", "80.50"),
        ("this run <i>(earlier weights)</i>", "71.25"),
        ("random weights", "40.00"),
    ]


def test_kinds_of_whitened_patches_are_told_apart_where_both_occur(
    make: Callable[..., Run],
) -> None:
    run = make()
    old = result(60.0, "whitened-patches")
    content = {"dataset": "pets", "protocol": {"seed": 0}, "results": [result(71.25, "new")]}
    run.save_evaluation("old", content | {"baselines": [old]})
    assert [row.encoder for row in scores(run.evaluations(), None)[0].rows] == [
        "this run", "whitened patches",
    ]  # fmt: skip
    mirrored = old | {"model": "whitened-mirrored", "accuracy": 65.0}
    run.save_evaluation("new", content | {"baselines": [mirrored]})
    assert [row.encoder for row in scores(run.evaluations(), None)[0].rows] == [
        "this run", "whitened patches", "whitened patches, plain",
    ]  # fmt: skip
    assert "whitened patches, plain" in page_of(run)


def test_the_headline_is_not_chosen_by_accuracy_on_test() -> None:
    own = [
        result(97.0, "new") | {"layer": "stage3"}, result(95.0, "new"),
        result(96.0, "new") | {"probe": "knn"},
    ]  # fmt: skip
    [table] = scores([{"dataset": "pets", "results": own}], None)
    assert [row.accuracy for row in table.rows] == [97.0, 95.0, 96.0]
    assert table.headline is not None
    assert (table.headline.accuracy, table.headline.layer) == (95.0, "head")


def test_scores_stand_with_the_baselines_of_their_probe(make: Callable[..., Run]) -> None:
    def by(probe: str, accuracy: float, model: str) -> dict[str, Any]:
        return result(accuracy, model) | {"probe": probe}

    run = make(weights=False)
    content = {
        "dataset": "pets", "protocol": {},
        "results": [by("knn", 60.0, "new"), by("linear", 70.0, "new")],
        "baselines": [
            by("knn", 55.0, "whitened-patches"), by("ridge", 90.0, "whitened-patches"),
            by("linear", 75.0, "whitened-patches"), by("linear", 50.0, "random-0"),
        ],
    }  # fmt: skip
    run.save_evaluation("pets", content)
    [table] = scores(run.evaluations(), None)
    assert [(row.probe, row.accuracy, table.gain(row)) for row in table.rows] == [
        ("linear", 75.0, None), ("linear", 70.0, -5.0), ("linear", 50.0, None),
        ("knn", 60.0, 5.0), ("knn", 55.0, None),
        ("ridge", 90.0, None),  # as evaluations once were: the run has no such score
    ]  # fmt: skip
    assert table.baseline is not None
    assert (table.baseline.probe, table.baseline.accuracy) == ("linear", 75.0)
    page = page_of(run)
    assert "whitened patches, head layer, do best by the same probe: <b>75.0 %</b>" in page
    assert "-5.00</td>" in page
    assert "+5.00</td>" in page


def test_a_collapsed_run_is_warned_of(make: Callable[..., Run]) -> None:
    run = make()
    assert "nearly all alike" not in page_of(run)
    lines = [
        entry(step, spread=0.9 if step < 30 else 0.05, participation=9.0) for step in range(60)
    ]
    run.metrics_path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    page = page_of(run)
    assert "During training, step 49: the projections are collapsing: they are nearly all" in page
    assert (
        "At the last step the projections are nearly all alike: their embedding std is 0.05" in page
    )
    assert '<span class="low" style="width:5.0%">' in page


# What the page says first, and in which order.

HEALTHY = {"embedding_std": 0.9, "participation_ratio": 9.0, "coding_rate_ratio": 0.6}


def measured(run: Run, steps: int = 60, **values: float) -> None:
    """Metrics of so many steps, of two in a pass over the images."""
    lines = [entry(step, seconds=step + 1.0, **HEALTHY | values) for step in range(steps)]
    run.metrics_path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def said_first(page: str) -> str:
    (text,) = re.findall(r'<p class="verdict[^>]*>(.*?)</p>', page)
    return html.unescape(re.sub(r"<.*?>", "", text))


def headline(table: str, own: float, base: float, *, count: int = 10_000) -> dict[str, Any]:
    rows = [result(own, "new"), result(base, "random-0")]
    mine, untrained = (row | {"test_size": count} for row in rows)
    return {"dataset": table, "protocol": {}, "results": [mine], "baselines": [untrained]}


def test_sections_stand_in_the_order_of_a_persons_questions(make: Callable[..., Run]) -> None:
    run = make()
    run.save_evaluation("pets", evaluation())
    page = page_of(run)
    assert re.findall(r'<section id="(\w+)"', page) == [
        "map", "neighbors", "scores", "measures", "curves", "spectrum", "patches", "similarity",
        "protocol", "record",
    ]  # fmt: skip
    assert page.index('class="verdict') < page.index('<section id="map"')


def test_what_is_folded_is_closed_and_can_be_printed(make: Callable[..., Run]) -> None:
    run = make()
    own = str(run.identity)
    scored = evaluation(few_shot=[few(own, 1, 60.0)], results=[result(70.0, own)])
    run.save_evaluation("pets", scored)
    page = page_of(run)
    folded = re.findall(
        r'<details class="fold">\s*<summary>.*?</summary>\s*<section id="(\w+)"', page
    )
    assert folded == [
        "labels", "curves", "spectrum", "patches", "similarity", "protocol", "record",
    ]  # fmt: skip
    assert page.count("<details") == page.count("</details>") > len(folded)  # the dots, too
    assert not re.search(r"<details[^>]* open", page)
    assert "::details-content { content-visibility: visible;" in page.partition("@media print")[2]


def test_a_healthy_run_that_nobody_scored_is_called_so(make: Callable[..., Run]) -> None:
    run = make()
    measured(run)
    assert said_first(page_of(run)) == (
        "Healthy, not scored. The network tells images apart, and training saw all 7 images, 30.0 "
        "times each; whether that is of use shows in the neighbors below, or in scores on labeled "
        "images."
    )


@pytest.mark.parametrize(
    ("own", "base", "lead", "words"),
    [
        (70.0, 60.0, "It worked.", "10.0 points more than the best of the untrained baselines"),
        (60.2, 60.0, "Healthy, but no better than the untrained", "about as many as the best"),
        (50.0, 60.0, "Healthy, but no better than the untrained", "10.0 points less than"),
    ],
)  # fmt: skip
def test_it_worked_only_with_a_gain_over_the_named_untrained_baseline(
    make: Callable[..., Run], own: float, base: float, lead: str, words: str
) -> None:
    run = make(weights=False)
    measured(run)
    run.save_evaluation("pets", headline("pets", own, base))
    said = said_first(page_of(run))
    assert said.startswith(lead)
    assert words in said
    assert said.endswith(f"random weights ({base:.1f} %).")


def test_a_gain_on_few_test_images_may_be_chance(make: Callable[..., Run]) -> None:
    run = make(weights=False)
    measured(run)
    run.save_evaluation("pets", headline("pets", 70.0, 60.0, count=20))
    assert said_first(page_of(run)).startswith("Healthy, but no better")


def test_a_collapsed_run_is_called_so_whatever_it_scores(make: Callable[..., Run]) -> None:
    run = make()
    measured(run, spread=0.05)
    run.save_evaluation("pets", headline("pets", 70.0, 60.0))
    page = page_of(run)
    assert said_first(page).startswith(
        "Collapsed. The network gives nearly the same answer for every image: its projections are "
        "nearly all alike: their embedding std is 0.05, where 0 is one point. The map and"
    )
    assert '<p class="verdict poor">' in page


def test_a_run_that_saw_few_images_is_called_barely_trained(make: Callable[..., Run]) -> None:
    run = make()
    run.plan = run.plan | {"steps": 3000, "steps_per_epoch": 3000, "usable_samples": 12_000}
    measured(run, steps=30)
    page = page_of(run)
    assert said_first(page).startswith(
        "Barely trained. Training saw 120 of 12,000 images (1 %) in 30 steps; a full pass takes "
        "about 50 min 0 s."
    )
    assert "<dt>A full pass takes</dt><dd>50 min 0 s</dd>" in page


def test_headline_numbers_are_those_of_a_person_with_images(make: Callable[..., Run]) -> None:
    run = make()
    measured(run)
    page = page_of(run)
    facts = page.partition('<dl class="facts">')[2].partition("</dl>")[0]
    assert re.findall(r"<dt>(.*?)</dt>", facts) == [
        "Images", "Images seen in training", "Training took", "A full pass takes",
    ]  # fmt: skip
    assert "100 % <small>30.0 times each</small>" in facts
    assert "PFLOP" not in page.partition('<section id="curves"')[0]
    assert "PFLOP in all" in section(page, "record")


def test_the_record_has_words_for_keys_and_a_date(make: Callable[..., Run]) -> None:
    run = make()
    when = datetime(2025, 3, 9, 14, 5).timestamp()
    os.utime(run.metrics_path, (when, when))
    page = page_of(run)
    record = section(page, "record")
    assert '<dt title="patches">patches of each image</dt><dd>3</dd>' in record
    assert '<dt title="steps_per_epoch">steps of a pass over the images</dt><dd>2</dd>' in record
    assert "date of the last step</dt><dd>9 March 2025</dd>" in record
    assert "last step on 9 March 2025" in page.partition("<h1>")[0]
    # Every key has its words: none is shown as files have it.
    assert [name for name in re.findall(r"<dt[^>]*>(.*?)</dt>", record) if "_" in name] == []
    assert re.search(r"Written by empssl \S+ on \d+ \w+ \d{4}\.", page)


def test_neighbors_have_the_names_of_their_files_and_links_to_them(
    make: Callable[..., Run], folder: Path
) -> None:
    hostile = 'a "b" <b>&\'c%20#?.png'
    for path in (folder / "cat").glob("*"):
        path.rename(path.with_name(f"{path.stem} {hostile}"))
    run = make()
    shown = section(page_of(run), "neighbors")
    assert "<b>&" not in shown
    every = [a for tag, a in Elements(shown).found if tag == "a" and a.get("class") == "file"]
    images = run.plan["usable_samples"]
    assert len(every) == images * min(images, 9)  # each image and its eight nearest
    for link in every:
        file = run.path / unquote(str(link["href"]))
        assert file.is_file()
        assert link["title"] == file.resolve().relative_to(folder).as_posix()
    names = [html.unescape(name) for name in re.findall(r'class="file"[^>]*>(.*?)</a>', shown)]
    assert len({*names}) == images
    assert {*names} <= {path.name for path in folder.glob("*/*")}


def test_images_that_are_no_files_have_names_and_no_links(make: Callable[..., Run]) -> None:
    shown = section(page_of(make(), data="digits", images=5), "neighbors")
    assert "href" not in shown
    assert re.search(r'<span class="file" title="[^"]+">\d+</span>', shown)


def test_folders_are_no_classes_until_somebody_scores_them(
    make: Callable[..., Run], folder: Path
) -> None:
    run = make()
    shown = section(page_of(run), "neighbors")
    assert 'class="differs"' not in shown
    assert "no neighbor is right or wrong by them" in shown
    run.save_evaluation("pictures", evaluation(str(folder)))
    shown = section(page_of(run), "neighbors")
    assert '<figure class="differs">' in shown
    assert "have the class of their image" in shown


def test_labels_of_a_known_data_set_are_classes(make: Callable[..., Run]) -> None:
    shown = section(page_of(make(), data="digits", images=40), "neighbors")
    assert "have the class of their image" in shown


def test_images_without_labels_have_no_command_that_needs_some(
    make: Callable[..., Run], folder: Path
) -> None:
    for path in list(folder.glob("*/*")):
        path.rename(folder / path.name)
    for empty in ("cat", "dog"):
        (folder / empty).rmdir()
    shown = section(page_of(make()), "scores")
    assert "These images have no labels" in shown
    assert "<code>" not in shown


def test_pictures_are_shown_at_their_size_and_never_larger_than_their_files(
    tmp_path: Path, make: Callable[..., Run], folder: Path
) -> None:
    generator = np.random.default_rng(0)
    sizes = {"cat": (300, 200), "dog": (40, 50)}
    for path in folder.glob("*/*"):
        pixels = generator.integers(0, 256, (*sizes[path.parent.name], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    page = section(page_of(make()), "neighbors")
    pictures = [a for tag, a in Elements(page).found if tag == "img"]
    for a in pictures:
        content = base64.b64decode(str(a["src"]).partition(",")[2])
        size = Image.open(io.BytesIO(content)).size
        assert (str(size[0]), str(size[1])) == (a["width"], a["height"])
    assert {a["width"] for a in pictures} == {"128", "40"}  # the network saw 16


def test_blocks_are_shown_at_a_whole_multiple(make: Callable[..., Run]) -> None:
    page = section(page_of(make()), "neighbors")  # pictures of 16 pixels
    assert {(a["class"], a["width"]) for tag, a in Elements(page).found if tag == "img"} == {
        ("blocks", "64")
    }


def test_bars_start_and_end_near_the_accuracies_and_say_where(make: Callable[..., Run]) -> None:
    run = make(weights=False)
    run.save_evaluation("pets", headline("pets", 84.0, 81.0))
    shown = section(page_of(run), "scores")
    assert "Bars start at 80 % and end at 85 %." in shown
    assert re.findall(r'<span style="width:([\d.]+)%">', shown) == ["80.0", "20.0"]


@pytest.mark.parametrize("accuracy", [0.0, 3.0, 50.0, 100.0])
def test_a_bar_stays_on_its_axis(accuracy: float) -> None:
    [table] = scores([{"dataset": "pets", "results": [result(accuracy, "new")]}], None)
    assert 0 <= table.bar(table.rows[0]) <= 100
    assert 0 <= table.axis[0] < table.axis[1] <= 100


def test_a_run_that_has_recovered_is_not_called_collapsed(make: Callable[..., Run]) -> None:
    run = make()
    lines = [entry(step, participation=1.1 if step < 45 else 6.0) for step in range(60)]
    run.metrics_path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    page = page_of(run)
    assert "step 39: the projections are collapsing: they lie nearly on one line" in page
    assert "At the last step the projections" not in page


def test_bad_samples_are_counted_by_reason(make: Callable[..., Run]) -> None:
    run = make()
    rows = [("a", "truncated"), ("b", "empty"), ("c", "truncated")]
    lines = [{"index": 0, "name": n, "reason": r, "error": "", "bytes": 1} for n, r in rows]
    written = "".join(json.dumps(line) + "\n" for line in lines) + '{"index": 3, "na'
    run.bad_samples_path.write_text(written)
    page = page_of(run)
    assert "3 images could not be used" in page
    assert re.search(r"truncated</td><td class=\"n\">2</td><td>a<.*empty</td>", page, re.DOTALL)
    assert run.bad_samples_path.read_text() == written  # the run may be writing it


def test_nearest_neighbor_is_the_copy_and_never_the_image_itself() -> None:
    some = sample(6, labels=torch.tensor([0, 1, 0, 1, 0, 1]))
    embeddings = torch.eye(6)
    embeddings[3] = embeddings[0]  # a copy, whose label differs
    first = queries(some, embeddings, PAGE)[0]
    assert (first.neighbors[0].name, first.neighbors[0].label) == ("train/00003", "dog")
    assert first.neighbors[0].similarity == pytest.approx(1.0)
    assert not first.neighbors[0].agrees
    assert first.name not in [near.name for near in first.neighbors]


def test_a_neighbor_agrees_where_both_classes_are_known() -> None:
    some = sample(4, labels=torch.tensor([0, 0, 1, -1]))
    found = {query.name: query.neighbors for query in queries(some, torch.eye(4), PAGE)}
    known = {near.name: near.agrees for near in found["train/00000"]}
    assert known == {"train/00001": True, "train/00002": False, "train/00003": None}
    assert {near.agrees for near in found["train/00003"]} == {None}


def test_patches_shown_are_those_of_training() -> None:
    some = sample(3)
    config = settings("x")
    shown = patched(some, config)
    assert [len(item.views) for item in shown] == [3, 3, 3]
    other = patched(some, config | {"seed": 1})
    assert shown[0].views != other[0].views
    assert shown[0].grid == other[0].grid


def test_few_embeddings_are_placed_by_principal_components() -> None:
    some = sample(8, labels=torch.tensor([0, 0, 0, 0, 1, 1, 1, -1]))
    generator = torch.Generator().manual_seed(0)
    plane = embedding_map(some, torch.randn(8, 5, generator=generator), PAGE)
    assert plane is not None
    assert "the first two principal components of 8" in plane.method
    assert [(g.name, g.count) for g in plane.groups] == [("unlabeled", 1), ("cat", 4), ("dog", 3)]


def test_map_of_many_keeps_clusters_apart() -> None:
    labels = torch.arange(60) % 2
    some = sample(60, labels=labels)
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(60, 8, generator=generator) * 0.05 + torch.eye(8)[labels]
    plane = embedding_map(some, embeddings, PAGE)
    assert plane is not None
    assert "t-SNE of 60" in plane.method
    assert "perplexity 19.7" in plane.method
    cat, dog = (np.array(re.findall(r"M(\d+) (\d+)", g.path), float) for g in plane.groups)
    spread = max(np.ptp(cat, axis=0).max(), np.ptp(dog, axis=0).max())
    assert np.linalg.norm(cat.mean(0) - dog.mean(0)) > spread / 2


def test_pictures_on_the_map_have_the_names_of_their_files(
    make: Callable[..., Run], folder: Path
) -> None:
    hostile = '<b>&"photo\x1b.png'
    next((folder / "cat").glob("*")).rename(folder / "cat" / hostile)
    files = {f"{path.parent.name}/{path.name}" for path in folder.glob("*/*.png")}
    page = section(page_of(make()), "map")
    titles = re.findall(r'<path d="M(\d+) (\d+).5h1"><title>(.*?)</title></path>', page)
    assert len(titles) > 1
    assert len({(x, y) for x, y, _ in titles}) == len(titles)  # a cell each
    shown = {html.unescape(title).rpartition(", ")[0] for *_, title in titles}
    assert shown <= {visible(file) for file in files}
    assert "<b>" not in page
    assert "\x1b" not in page


def test_a_picture_on_the_map_lies_where_its_name_is_shown() -> None:
    pixels = torch.zeros(60, 3, 16, 16, dtype=torch.uint8)
    reds = torch.arange(60) * 37 % 60 * 4  # far from those before and after
    pixels[:, 0] = reds[:, None, None].byte()
    images = MemoryImages(pixels, name="x", split="train", fingerprint="f")
    generator = torch.Generator().manual_seed(0)
    plane = embedding_map(Sample.read(images, 60), torch.randn(60, 5, generator=generator), PAGE)
    assert plane is not None
    content = base64.b64decode(plane.pictures.uri.partition(",")[2])
    red = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"), int)[..., 0]
    step = red.shape[1] / plane.columns
    assert red.shape[0] == plane.rows * step
    for place in plane.places:
        middle = red[int((place.row + 0.5) * step), int((place.column + 0.5) * step)]
        assert abs(middle - int(reds[int(place.name.rpartition("/")[2])])) <= 8  # compressed


def test_embeddings_that_are_all_alike_have_no_map() -> None:
    assert embedding_map(sample(5), torch.ones(5, 3), PAGE) is None


def test_curve_states_what_spikes_hide() -> None:
    metrics = [entry(s, gradient_norm=1e6 if s == 500 else 2.0) for s in range(1000)]
    curve = next(c for c in curves(metrics) if c.name == "gradient norm")
    assert (curve.most, curve.last) == ("1,000,000", "2")


def test_terms_of_any_objective_become_curves() -> None:
    metrics = [{**entry(s), "variance": 0.1 * s} for s in range(3)]
    assert "variance" in [curve.name for curve in curves(metrics)]


def test_values_that_are_not_finite_leave_a_gap() -> None:
    metrics = [entry(s, loss=float("nan") if s == 1 else -5.0) for s in range(4)]
    curve = curves(metrics)[0]
    assert curve.chart.lines[-1].path.count("M") == 2


def test_envelope_keeps_the_extremes_of_a_long_line() -> None:
    values = torch.randn(50_000, generator=torch.Generator().manual_seed(0)).double().numpy()
    _, kept = envelope(np.arange(50_000.0), values)
    assert len(kept) <= 600
    assert (kept.min(), kept.max()) == (values.min(), values.max())


# Agreement of patches with their image.


def plain_similarity(encoder: Encoder, image: torch.Tensor, steps: int) -> list[list[float]]:
    """One patch at a time, with the cosine written out."""
    policy, side = encoder.policy, image.shape[-1]
    size = policy.patch_side(side)
    corners = [round(k * (side - size) / (steps - 1)) for k in range(steps)]
    rows = []
    for top in corners:
        for left in corners:
            patch = image[None, :, top : top + size, left : left + size].float() / 255
            patch = (patch - policy.augmentation.mean) / policy.augmentation.std
            rows.append(encoder.network.embed(patch)["head"][0].double().numpy())
    mean = sum(rows) / len(rows)
    cosines = [float(row @ mean / (row @ row) ** 0.5 / (mean @ mean) ** 0.5) for row in rows]
    return [cosines[k : k + steps] for k in range(0, len(cosines), steps)]


def test_patch_similarity_is_the_plain_cosine_to_the_mean_patch(make: Callable[..., Run]) -> None:
    encoder = Encoder.from_pretrained(make().path, device="cpu")
    some = sample(2)
    found = patch_similarity(encoder, some.pixels, "head", 3)
    for image, values in zip(some.pixels, found, strict=True):
        expected = torch.tensor(plain_similarity(encoder, image, 3))
        torch.testing.assert_close(values.double(), expected.double(), atol=1e-5, rtol=0)


def test_patches_that_agree_most_and_least_are_the_ends_of_the_heat_map(
    make: Callable[..., Run],
) -> None:
    encoder = Encoder.from_pretrained(make().path, device="cpu")
    some = sample(2)
    found = patch_similarities(some, encoder, "head")
    assert found.items[0].steps == 5  # 16 pixels hold patches of 12 at five places
    values = patch_similarity(encoder, some.pixels, "head", 5)
    assert (found.low, found.high) == (float(values.min()), float(values.max()))
    assert found.items[1].most.cosine == float(values[1].max())
    row, column = divmod(int(values[1].argmin()), 5)
    assert f"{values[1].min():.2f} in row {row + 1}, column {column + 1}" in found.items[1].where


def test_heat_has_a_cell_for_each_patch_in_its_color() -> None:
    picture = _heat(torch.full((3, 16, 16), 255), torch.tensor([[0.0, 1.0], [0.5, 0.0]]), 0.0, 1.0)
    data = base64.b64decode(picture.uri.partition(",")[2])
    image = Image.open(io.BytesIO(data)).convert("RGB")
    side = image.width
    seen = [image.getpixel((x * side // 4, y * side // 4)) for y in (1, 3) for x in (1, 3)]
    expected = [colormaps["viridis"](value, bytes=True)[:3] for value in (0.0, 1.0, 0.5, 0.0)]
    assert np.abs(np.array(seen, int) - np.array(expected, int)).max() <= 1


# Planes.


@pytest.mark.parametrize("mirrored", [False, True])
def test_alignment_recovers_a_turned_copy(mirrored: bool) -> None:
    generator = np.random.default_rng(0)
    reference = generator.normal(size=(50, 2))
    turn = np.array([[np.cos(2.0), -np.sin(2.0)], [np.sin(2.0), np.cos(2.0)]])
    if mirrored:
        turn = turn @ np.diag([1.0, -1.0])
    found = procrustes(reference @ turn + [3.0, -7.0], reference)
    np.testing.assert_allclose(found, reference, atol=1e-12)


def test_alignment_is_the_best_of_all_turns_and_keeps_distances() -> None:
    generator = np.random.default_rng(1)
    reference, points = generator.normal(size=(2, 40, 2)) * [[[1.0, 3.0]], [[2.0, 1.0]]]
    found = procrustes(points, reference)
    assert np.linalg.norm(found[0] - found[1]) == pytest.approx(
        np.linalg.norm(points[0] - points[1])
    )
    centered = points - points.mean(0)
    others = []
    for angle in np.linspace(0, 2 * np.pi, 3600):
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        for flip in (1.0, -1.0):
            own = centered @ np.diag([1.0, flip]) @ turn + reference.mean(0)
            others.append(((own - reference) ** 2).sum())
    assert ((found - reference) ** 2).sum() == pytest.approx(min(others), rel=1e-5)
    assert ((found - reference) ** 2).sum() <= min(others)


# Tables, script and style.


def test_only_the_named_script_may_run(make: Callable[..., Run]) -> None:
    page = page_of(make(weights=False))
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="(.*?)"', page)
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert "unsafe-inline" not in policy.partition("script-src")[2]


def test_scores_of_two_protocols_stand_in_two_tables(make: Callable[..., Run]) -> None:
    run = make(weights=False)
    plain = {"dataset": "pets", "protocol": {"seed": 0}, "results": [result(70.0, "new")]}
    few = result(40.0, "new") | {"train_size": 20}
    run.save_evaluation("pets", plain | {"baselines": []})
    run.save_evaluation("pets-few", plain | {"results": [few], "extra": [[1, 2], [3, 4]]})
    tables = scores(run.evaluations(), None)
    found = {t.apart: [row.accuracy for row in t.rows] for t in tables}
    assert found == {"train size 90": [70.0], "train size 20": [40.0]}
    assert page_of(run).count('<table class="scores sortable">') == 2


def test_balanced_accuracy_is_shown_where_classes_are_uneven(make: Callable[..., Run]) -> None:
    run = make(weights=False)
    content = {"dataset": "pets", "protocol": {}, "results": [result(70.0, "new")]}
    run.save_evaluation("pets", content)
    assert "Balanced" not in page_of(run)
    uneven = result(70.0, "new") | {"balanced_accuracy": 55.5}
    run.save_evaluation("pets", content | {"results": [uneven]})
    assert 'data-value="55.5">55.50</td>' in page_of(run)


def test_tables_that_sort_have_what_the_script_sorts_by(make: Callable[..., Run]) -> None:
    run = make(weights=False)
    content = {"dataset": "pets", "protocol": {}, "results": [result(7.25, "a"), result(70.5, "a")]}
    run.save_evaluation("pets", content)
    page = page_of(run)
    (table,) = re.findall(r'<table class="scores sortable">(.*?)</table>', page, re.DOTALL)
    head, body = table.split("<tbody>")
    heads = re.findall(r"<(th|td)\b([^>]*)>", head.partition("<thead>")[2])
    for row in re.findall(r"<tr.*?</tr>", body, re.DOTALL):
        assert len(re.findall(r"<td\b", row)) == len(heads)  # a cell below each heading
    assert re.findall(r'data-value="([^"]*)"', body) == ["70.5", "7.25"]
    # As they stand, so that the first click on it turns them round.
    assert sum('aria-sort="descending"' in attributes for _, attributes in heads) == 1


def test_every_color_of_the_light_page_has_one_on_the_dark_page(make: Callable[..., Run]) -> None:
    style = page_of(make(weights=False)).partition("<style>")[2].partition("</style>")[0]
    light, dark = re.findall(r":root \{(.*?)\}", style, re.DOTALL)
    names = [re.findall(r"(--\w+): (#\w{6})", block) for block in (light, dark)]
    assert [name for name, _ in names[0]] == [name for name, _ in names[1]]
    assert {name for name, _ in names[0]} == set(re.findall(r"var\((--\w+)\)", style)) - {"--views"}


def luminance(color: str) -> float:
    parts = [int(color[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_text_and_marks_stand_out_from_the_paper(make: Callable[..., Run]) -> None:
    style = page_of(make(weights=False)).partition("<style>")[2].partition("</style>")[0]
    for block in re.findall(r":root \{(.*?)\}", style, re.DOTALL):
        colors = {name: luminance(c) for name, c in re.findall(r"--(\w+): (#\w{6})", block)}

        def contrast(one: str, other: str, colors: dict[str, float] = colors) -> float:
            low, high = sorted([colors[one], colors[other]])
            return (high + 0.05) / (low + 0.05)

        for text in ("ink", "quiet", "warn"):  # WCAG AA: 4.5 for text
            assert min(contrast(text, "paper"), contrast(text, "tint")) >= 4.5, text
        for mark in ("accent", "second", *(f"c{k}" for k in range(10))):  # 3 for what is drawn
            assert contrast(mark, "paper") >= 3, mark


# What evaluations hold besides scores, and measures without labels.


def evaluation(dataset: str = "pets", *, transfer: bool = False, **parts: Any) -> dict[str, Any]:
    """As `evaluate` writes it, for a model `new` and the same with random weights."""
    protocol = {
        "frozen": True, "mode": "eval", "epoch": "last", "image_side": 16, "seed": 3,
        "transfer": transfer, "trained_on": "pictures",
    }  # fmt: skip
    content = {"dataset": dataset, "protocol": protocol, "results": [result(70.0, "new")]}
    return content | {"baselines": [result(40.0, "random-0")]} | parts


def broken(names: list[str], confusion: list[list[int]], **more: Any) -> dict[str, Any]:
    counts = [100 * row[k] / sum(row) if sum(row) else None for k, row in enumerate(confusion)]
    breakdown = {"classes": names, "per_class": counts, "confusion": confusion}
    return result(70.0, "new") | {"breakdown": breakdown | {"calibration": None} | more}


def few(model: str, shots: int, mean: float) -> dict[str, Any]:
    return result(0.0, model) | {
        "shots": shots, "mean": mean, "deviation": 2.5, "accuracies": [mean - 1, mean + 1],
    }  # fmt: skip


def quality(**changes: Any) -> dict[str, Any]:
    reading = {
        "measure": "rankme", "layer": "head", "value": 33.2016, "random": 11.73,
        "healthy": "higher", "meaning": "directions that embeddings use", "source": "Garrido",
    }  # fmt: skip
    protocol = {
        "model": "new", "split": "train", "images": 600, "image_side": 16, "crops": "grid3",
        "views": 8, "seed": 0,
    }  # fmt: skip
    return {"dataset": "pets", "protocol": protocol, "readings": [reading | changes]}


def section(page: str, name: str) -> str:
    found = re.search(rf'<section id="{name}".*?</section>', page, re.DOTALL)
    return found[0] if found else ""


def cells(html_text: str) -> list[list[str]]:
    rows = re.findall(r"<tr.*?</tr>", html_text, re.DOTALL)
    return [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in rows]


def test_few_labels_are_shown_as_they_were_saved(make: Callable[..., Run]) -> None:
    run = make(weights=False)
    rows = [few("new", 5, 81.25), few("new", 1, 60.5), few("random-0", 1, 30.0)]
    run.save_evaluation("pets", evaluation(few_shot=rows))
    shown = section(page_of(run), "labels")
    assert cells(shown)[1:] == [
        ["this run", "linear", "head", "grid3", "60.50 ± 2.50", "81.25 ± 2.50"],
        ["random weights", "linear", "head", "grid3", "30.00 ± 2.50", ""],
    ]
    assert "head under the linear probe: this run 1: 60.50 ± 2.50 %, 5: 81.25" in shown
    assert "means over 2 draws" in shown


def test_accuracy_against_test_patches_is_shown_as_it_was_saved(make: Callable[..., Run]) -> None:
    run = make(weights=False)
    curve = result(0.0, "new") | {"patches": [1, 4, 9], "accuracies": [50.0, 61.5, 70.25]}
    run.save_evaluation("pets", evaluation(curves=[curve]))
    assert cells(section(page_of(run), "bags"))[1][4:] == ["50.00", "61.50", "70.25"]


def test_layers_stand_in_the_order_of_the_network(make: Callable[..., Run]) -> None:
    run = make(weights=False)
    own = [result(a, "new") | {"layer": x} for x, a in [("head", 70.5), ("stem", 40.25),
                                                        ("projection", 65.0)]]  # fmt: skip
    random = [result(35.5, "random-0") | {"layer": "stem"}]
    run.save_evaluation("pets", evaluation(results=own, baselines=random))
    shown = section(page_of(run), "layers")
    assert re.findall(r'class="tick y"[^>]*>(\w+)<', shown) == ["stem", "head", "projection"]
    assert "stem 40.25 %, random weights 35.50 %; head 70.50 %; projection 65.00 %" in shown


def test_confusion_and_accuracies_are_those_that_were_saved(make: Callable[..., Run]) -> None:
    run = make(weights=False)
    row = broken(["cat", "dog", "eel"], [[9, 1, 0], [4, 4, 2], [0, 0, 0]])
    run.save_evaluation("pets", evaluation(results=[row]))
    shown = section(page_of(run), "classes")
    by_class, confusion = re.findall(r"<tbody>(.*?)</tbody>", shown, re.DOTALL)
    assert cells(by_class) == [  # the worst first; test has no eel
        ["dog", "10", "40.00", "cat (4), eel (2)"],
        ["cat", "10", "90.00", "dog (1)"],
    ]
    assert cells(confusion) == [["9", "1", ""], ["4", "4", "2"], ["", "", ""]]


def test_what_is_wrong_is_colored_on_a_scale_of_its_own(make: Callable[..., Run]) -> None:
    run = make(weights=False)
    row = broken(["cat", "dog"], [[98, 2], [1, 99]])
    run.save_evaluation("pets", evaluation(results=[row]))
    shown = section(page_of(run), "classes")
    wrong = re.findall(r'class="wrong" style="--deep:([\d.]+)%">(\d+)<', shown)
    assert wrong == [("50.0", "2"), ("25.0", "1")]
    assert "ends at 2.0 % of a class" in shown


def test_many_classes_become_a_picture_with_words(make: Callable[..., Run]) -> None:
    run = make(weights=False)
    names = [f"class {k}" for k in range(30)]
    counts = (np.eye(30, dtype=int) * 5).tolist()
    run.save_evaluation("pets", evaluation(results=[broken(names, counts)]))
    shown = section(page_of(run), "classes")
    assert 'class="confusion"' not in shown
    assert 'alt="Confusion of 30 classes as a picture' in shown
    assert len(cells(shown)) == 31  # each class has its row


def test_calibration_is_shown_bin_by_bin(make: Callable[..., Run]) -> None:
    run = make(weights=False)
    part = {"low": 0.8, "high": 0.9, "count": 7, "confidence": 85.5, "accuracy": 71.4}
    sure = {"expected_error": 14.125, "bins": [part], "num_bins": 15}
    row = broken(["cat"], [[7]], calibration=sure)
    run.save_evaluation("pets", evaluation(results=[row]))
    shown = section(page_of(run), "classes")
    assert "expected calibration error 14.12 points" in shown
    assert "85.5 % sure, 71.4 % right, 7 images" in shown


def test_transfers_come_after_and_say_so_with_their_protocol(make: Callable[..., Run]) -> None:
    run = make(weights=False)
    shots = [few("new", 1, 60.0)]
    run.save_evaluation("a", evaluation("ants", transfer=True, few_shot=shots))
    run.save_evaluation("b", evaluation("pictures", few_shot=shots))
    page = page_of(run)
    titles = re.findall(r"<h3>(.*?)</h3>", section(page, "labels"))
    assert titles == ["pictures", "ants, a transfer from pictures"]
    assert section(page, "labels").count(
        "Frozen encoder, eval mode, weights of the last epoch, images of 16 pixels, 90 train and "
        "10 test images, seed 3."
    ) == 2  # fmt: skip
    captions = re.findall(r"<caption>(.*?)</caption>", section(page, "scores"))
    assert ["This is a transfer" in caption for caption in captions] == [False, True]


def test_scores_of_earlier_weights_make_no_charts(make: Callable[..., Run]) -> None:
    run = make()
    row = broken(["cat"], [[7]])
    run.save_evaluation("pets", evaluation(results=[row], few_shot=[few("new", 1, 60.0)]))
    page = page_of(run)
    assert (section(page, "labels"), section(page, "classes")) == ("", "")
    run.save_evaluation("pets", evaluation(few_shot=[few(str(run.identity), 1, 60.0)],
                                           results=[result(70.0, str(run.identity))]))  # fmt: skip
    assert "60.00 ± 2.50" in section(page_of(run), "labels")


def test_what_was_not_measured_has_the_command_that_does(make: Callable[..., Run]) -> None:
    run = make(weights=False)
    run.save_evaluation("pets", evaluation("my pets"))
    page = html.unescape(page_of(run))
    assert (
        f"empssl evaluate {run.path} 'my pets' --layers all --few-shot 1 5 10 --curve 1 2 4 "
        "--breakdown<" in page
    )
    assert f"<code>empssl examine {run.path}<" in page
    rows = evaluation("my pets", few_shot=[few("new", 1, 60.0)])
    run.save_evaluation("pets", rows | {"results": [broken(["cat"], [[7]])]})
    run.save_quality("pets", quality())
    page = html.unescape(page_of(run))
    assert f"empssl evaluate {run.path} 'my pets' --layers all --curve 1 2 4<" in page
    assert "empssl examine" not in page


def test_measures_are_shown_with_their_meaning_beside_random_weights(
    make: Callable[..., Run],
) -> None:
    run = make(weights=False)
    run.save_quality("pets", quality())
    shown = section(page_of(run), "measures")
    assert "directions that embeddings use; higher is healthier <cite>(Garrido)</cite>" in shown
    assert cells(shown)[1] == ["<b>33.2</b> <small>random 11.7</small>"]
    assert "600 train images of 16 pixels, no labels; grid3 crops, and 8 random patches" in shown


@pytest.mark.parametrize(
    ("healthy", "value", "random", "healthier"),
    [
        ("higher", 2.0, 1.0, True),
        ("higher", 1.0, 2.0, False),
        ("lower", -2.0, -1.0, True),
        ("near 1", 1.2, 0.7, True),
        ("near 1", 1.4, 0.7, False),
        ("higher", 2.0, None, False),
    ],
)
def test_bold_is_what_is_healthier_than_random_weights(
    healthy: str, value: float, random: float | None, healthier: bool
) -> None:
    (table,) = measures([quality(healthy=healthy, value=value, random=random)], None)
    (shown,) = table.rows[0].values
    assert shown is not None
    assert shown.healthier is healthier


def test_measures_of_earlier_weights_are_called_so(make: Callable[..., Run]) -> None:
    run = make()
    run.save_quality("pets", quality())
    assert "with the run’s earlier weights" in page_of(run)
    content = quality()
    run.save_quality("pets", content | {"protocol": content["protocol"] | {"model": run.identity}})
    assert "with the run’s earlier weights" not in page_of(run)


def test_hostile_names_of_classes_and_data_are_shown_as_text(make: Callable[..., Run]) -> None:
    run = make(weights=False)
    row = broken([HOSTILE, "dog"], [[1, 1], [0, 2]])
    hostile = HOSTILE.replace("/", "")
    run.save_evaluation("pets", evaluation(hostile, results=[row], few_shot=[few("new", 1, 6.0)]))
    run.save_quality("pets", quality(meaning=HOSTILE))
    page = page_of(run)
    assert page.count("<script") == 1
    assert "\x1b" not in page
    for name in ("classes", "labels", "measures"):
        assert "&lt;script&gt;" in section(page, name)


def test_what_evaluate_and_examine_write_is_what_the_report_reads(
    make: Callable[..., Run], folder: Path
) -> None:
    run = make()
    found = evaluate(
        run.path, str(folder), probes=["linear"], layers=["all"], few_shot=[1], curve=[1],
        breakdown=True, device="cpu",
    )  # fmt: skip
    quality = examine(run.path, images=8, device="cpu")
    page = page_of(run)
    own = next(row for row in found.few_shot if row.layer == "backbone")
    assert f'<td class="n" data-value="{own.mean}">{own.mean:.2f} ± {own.deviation:.2f}' in page
    curve = next(row for row in found.curves if row.layer == "backbone")
    assert [f"{a:.2f}" for a in curve.accuracies] in [
        row[4:] for row in cells(section(page, "bags"))
    ]
    assert section(page, "layers").count('class="tick y"') == len(found.results)
    assert all(reading.meaning in html.unescape(page) for reading in quality.readings)
    assert "Not measured yet" not in page


def test_the_spectrum_of_a_report_falls_by_the_variances_that_embeddings_have() -> None:
    variances = torch.tensor([1.0, 1e-2, 1e-4])
    axes = torch.diag((3 * variances).sqrt())  # six rows: each axis has twice its square
    found = spectrum({"head": torch.cat([axes, -axes])})
    heights = [float(y) for _, y in re.findall(r"[ML]([\d.]+) ([\d.]+)", found.chart.lines[0].path)]
    marks = {mark.text: mark.at for mark in found.chart.y_ticks}
    expected = [marks["1"], marks["10⁻²"], marks["10⁻⁴"]]
    assert heights == pytest.approx(expected, abs=0.06)  # as drawn, to a tenth
    assert (found.ranks[0].most, found.ranks[0].dim) == (3, 3)
