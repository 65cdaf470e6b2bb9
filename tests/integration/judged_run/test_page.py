"""The page: self-contained, escaped, honest about gaps, and it opens."""

import html
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from aggregator.store import Store
from fedcore.energy import Boundary, EnergyReading
from fedcore.types import Missing, Ticket
from testbed.exposure import Exposure, Exposures, write_exposures
from testbed.external import ExternalLog, ExternalWindow, write_external
from testbed.judge import judge
from testbed.pictures import read_pictures
from testbed.report.comparison import compare, unequal_conditions
from testbed.report.grids import Grid
from testbed.report.page import write_report
from testbed.report.sentences import sentences
from testbed.report.summary import summary_table, summary_text
from testbed.results import load_results

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
EXPOSURE = Exposure(
    ticket=Ticket(run_id="page", round=0, client_id="client-0"),
    first_layer_rank=3,
    rank_limit=12,
    n_frames=Missing(why="a convolution"),
    ratio_residual=1e-7,
    is_peelable=True,
    zero_share=0.25,
    norm=1.5,
    is_surrogate=True,
)


class Elements(HTMLParser):
    """Tags with attributes, and the text of the page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, build: Callable):
    """A judged run with a diverged and a failed attempt; its page is written once."""
    world = build(tmp_path_factory.mktemp("page"))
    answers = list(world.answers["snn"])
    answers[1] = replace(answers[1], candidates=answers[1].candidates * np.nan)
    answers[2] = replace(answers[2], failed="the line search failed")
    world.answer_with("snn", answers)
    judge(world.run, world.private)
    write_exposures(Exposures(run_id=world.run_id("ann"), arm="ann", rows=(EXPOSURE,)), world.run)
    write_external(world.run, _plug_log(world.run_id("snn")))
    return world


def _plug_log(run_id: str) -> ExternalLog:
    reading = EnergyReading(
        energy_j=87.5,
        uncertainty_j=2.5,
        duration_s=20.0,
        rail="plug",
        boundary=Boundary.WALL_AC,
        method="integrated",
        coverage=1.0,
        n_samples=21,
        longest_gap_s=1.0,
        meter="csv-log 1",
    )
    return ExternalLog(
        client_id="client-0",
        log="plug.csv",
        sha256="0" * 64,
        boundary=Boundary.WALL_AC,
        begin_s=12.0,
        begin_error_s=1.0,
        correlation=0.93,
        windows=tuple(
            ExternalWindow(
                ticket=Ticket(run_id=run_id, round=number, client_id="client-0"),
                attempt=0,
                position=0,
                name="train",
                reading=reading,
            )
            for number in range(2)
        ),
    )


@pytest.fixture(scope="module")
def page(world) -> Path:
    return write_report(world.run)


def test_it_loads_nothing_from_anywhere(page: Path) -> None:
    source = page.read_text()
    for tag, attributes in Elements(source).tags:
        assert tag not in {"script", "iframe", "object", "embed", "base"}
        for name in ("src", "srcset", "href", "xlink:href", "data", "poster", "action"):
            value = attributes.get(name) or ""
            assert value.startswith(("data:", "#", "figures/")) or not value, (tag, name, value)
            if value.startswith("figures/"):
                assert tag == "a"
                assert (page.parent / value).stat().st_size > 0
    assert "@import" not in source
    assert all(url.startswith("#") for url in re.findall(r"url\(['\"]?([^)'\"]*)", source))


def test_received_strings_are_text(page: Path) -> None:
    elements = Elements(page.read_text())
    assert "<script>window.pwned = 1</script>" in elements.text  # from hello, card and audit
    assert not [attributes for _, attributes in elements.tags if "onerror" in attributes]


def test_gaps_have_their_reasons(page: Path) -> None:
    text = Elements(page.read_text()).text
    missing = text[text.index("Missing values") :]
    for why in (
        "the reconstruction is not finite",
        "the line search failed",
        "no energy sensor on this machine",
    ):
        assert why in missing


def test_an_external_log_is_another_source(page: Path) -> None:
    text = Elements(page.read_text()).text
    own = text[text.index("Meters that logged by themselves") : text.index("Training, bytes")]
    assert "snn" in own
    assert "ann" not in own.replace("wall-ac", "")
    assert "87.5 J (85 to 90) measured" in own
    assert "plug.csv, wall-ac, placed by the work, ± 1 s, correlation 0.93" in own


def test_modelled_energy_and_victims_data_are_marked(page: Path) -> None:
    text = Elements(page.read_text()).text
    assert "This page shows victims' data" in text
    assert "MODELLED energy" in text
    for figure in ("plane-psnr", "energy-ann", "energy-snn"):
        assert "MODELLED" in (page.parent / "figures" / f"{figure}.svg").read_text()


def test_what_bars_and_bands_stand_for_is_in_the_figures(page: Path) -> None:
    for figure, note in (
        ("plane-psnr", "bars: 95 % over victims (up, down); the energy model's interval"),
        ("accuracy", "bands: 95 % (Wilson)"),
        ("bytes", "bands: smallest to largest"),
        ("attack-loss", "thick: their median"),
    ):
        assert note in html.unescape((page.parent / "figures" / f"{figure}.svg").read_text())


def test_batches_of_many_examples_do_not_outgrow_the_figure(world, tmp_path: Path) -> None:
    arm = load_results(world.run).arms[0]
    pictures = [
        replace(
            picture,
            chosen=None,
            **{
                name: getattr(picture, name).repeat(60, 0)
                for name in ("truth", "mean_image", "noise")
            },
        )
        for picture in read_pictures(world.run, arm.run_id)
    ]
    grid = Grid.of(arm, pictures, into=tmp_path)
    assert sum(map(len, grid.rounds.values())) == 9 * 60
    assert grid.drawing
    svg = (tmp_path / f"grid-{arm.arm.name}.svg").read_text()
    assert "the first 64 of 540 examples" in svg


def test_every_victim_is_shown_with_an_alternative_text(page: Path) -> None:
    images = [attributes for tag, attributes in Elements(page.read_text()).tags if tag == "img"]
    originals = [i for i in images if i["alt"].startswith("original")]
    rebuilt = [i for i in images if i["alt"].startswith("reconstruction")]
    assert len(originals) == 2 * 9
    assert len(rebuilt) == 2 * 9 - 2
    drawings = [a for tag, a in Elements(page.read_text()).tags if tag == "svg"]
    assert drawings
    assert all(a.get("aria-label") for a in drawings)


def test_the_findings_are_those_of_the_numbers(page: Path, world) -> None:
    text = Elements(page.read_text()).text
    for arm in load_results(world.run).arms:
        mean = arm.findings.summary("psnr").mean
        assert f"{mean.value:.1f} ± {mean.half_width:.1f} dB over {mean.n} victims" in text
    assert "agrees with these numbers" in text  # the fixture's spiking arm was rebuilt worse
    assert "paired over 7 victims with the same examples" in text
    assert "no difference in energy (the intervals overlap)" in text
    assert "conditional on that trained model" in text
    assert world.experiment.digest in text


def said(world) -> str:
    """The page's findings, without the page."""
    arms = load_results(world.run).arms
    pictures = tuple(read_pictures(world.run, arm.run_id) for arm in arms)
    comparison = compare(*arms, metric="psnr", pictures=pictures)
    found = sentences(arms, [comparison])
    return " ".join(sentence.text for group in found.values() for sentence in group)


def test_equal_arms_are_not_told_apart(make_world: Callable) -> None:
    world = make_world()
    pairs = zip(world.answers["snn"], world.answers["ann"], strict=True)
    world.answer_with("snn", [replace(a, candidates=b.candidates) for a, b in pairs])
    judge(world.run, world.private)
    assert "No difference in PSNR can be told between ann and snn" in said(world)
    assert "is not decided by these numbers" in said(world)


def test_arms_with_other_victims_are_compared_unpaired(make_world: Callable) -> None:
    world = make_world()
    judge(world.run, world.private)
    arms = load_results(world.run).arms
    first, second = (read_pictures(world.run, arm.run_id) for arm in arms)
    second = tuple(replace(picture, truth=1 - picture.truth) for picture in second)
    found = compare(*arms, metric="psnr", pictures=(first, second))
    values = [[s.value for s in arm.findings.scores if s.metric == "psnr"] for arm in arms]
    oracle = scipy.stats.ttest_ind(*values, equal_var=False).confidence_interval(0.95)
    assert not found.is_paired
    assert (found.difference.low, found.difference.high) == pytest.approx(tuple(oracle))


def test_an_attack_that_finds_nothing_is_not_called_a_leak(make_world: Callable) -> None:
    world = make_world()
    for arm in ("ann", "snn"):
        answers = [
            replace(a, candidates=np.full_like(a.candidates, 0.3)) for a in world.answers[arm]
        ]
        world.answer_with(arm, answers)
    judge(world.run, world.private)
    assert "no leak to this attack is shown" in said(world)
    assert "these updates leak" not in said(world)


def test_an_unequal_budget_is_told(make_world: Callable) -> None:
    world = make_world()
    world.answer_with("snn", [replace(a, n_iterations=999) for a in world.answers["snn"]])
    judge(world.run, world.private)
    assert unequal_conditions(load_results(world.run).arms) == ["iterations spent (60, 999)"]
    assert "not attacked alike" in said(world)


def test_another_attack_than_the_planned_one_is_told(make_world: Callable) -> None:
    world = make_world()
    judge(world.run, world.private)
    assert "as the experiment fixed it before the run" in said(world)
    for arm in ("ann", "snn"):
        world.answer_with(arm, [replace(a, attack="dlg") for a in world.answers[arm]])
    judge(world.run, world.private)
    assert "The experiment had fixed inverting-gradients" in said(world)


def test_a_run_without_a_judge_still_has_a_page(make_world: Callable) -> None:
    world = make_world()
    text = Elements(write_report(world.run).read_text()).text
    assert "Not judged yet" in text
    assert "leakwatt judge" in text


def test_what_was_measured_is_shown_and_not_called_modelled(make_world: Callable) -> None:
    world = make_world(arms=[{"name": "ann"}])
    (arm,) = load_results(world.run).arms
    with Store(world.run.store_file) as store:
        for report in arm.reports:  # each client reports again, with a sensor
            phases = tuple(replace(p, measured=(reading(p.cpu_s),)) for p in report.phases)
            store.save_report(replace(report, attempt=1, phases=phases))
    judge(world.run, world.private)
    page = write_report(world.run)
    text = Elements(page.read_text()).text
    assert "MODELLED" not in text.upper().split("RESOLVED EXPERIMENT")[0]
    assert "measured, shared(3)" in text
    assert "MODELLED" not in (page.parent / "figures" / "energy-ann.svg").read_text()
    (table,) = summary_table(world.run)
    work = [cost.cpu_s for cost in arm.costs.values()]
    assert table["energy_per_client_round"]["value_j"] == pytest.approx(3 * np.mean(work))


def reading(cpu_s: float) -> EnergyReading:
    return EnergyReading(
        energy_j=3 * cpu_s,
        uncertainty_j=0.1 * cpu_s,
        duration_s=cpu_s,
        rail="package-0",
        boundary=Boundary.CPU_PACKAGE,
        method="counter",
        coverage=1.0,
        n_samples=2,
        longest_gap_s=cpu_s,
        meter="rapl 1",
        flags=("shared(3)",),
    )


def test_a_run_that_has_just_begun_has_a_page(make_world: Callable) -> None:
    world = make_world()
    world.run.store_file.unlink()
    Store(world.run.store_file).close()
    for arm in ("ann", "snn"):
        shutil.rmtree(world.run.attack(world.run_id(arm)))
    text = Elements(write_report(world.run).read_text()).text
    assert "accuracy was not evaluated" in text
    assert "0 rounds closed" in text
    missing = text[text.index("Missing values") :]
    for why in ("no client has evaluated yet", "no client reported its phases", "no round is"):
        assert why in missing
    assert "victims" in summary_text(world.run)


def test_the_summary_holds_both_baselines_and_the_word_modelled(page: Path, world) -> None:
    text = summary_text(world.run)
    for word in ("PSNR, attack", "mean image", "noise", "MODELLED", "threat model C"):
        assert word in text
    for arm in summary_table(world.run):
        assert arm["energy_per_client_round"]["kind"] == "modelled"
        assert set(arm["metrics"]["psnr"]["baselines"]) == {
            "noise",
            "mean-image",
            "class-mean",
        }


def test_the_same_run_gives_the_same_page(page: Path, world) -> None:
    first = page.read_bytes()
    assert write_report(world.run).read_bytes() == first


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
def test_chromium_opens_it_from_disk_without_a_complaint(page: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [
            CHROMIUM,
            *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
            *("--enable-logging=stderr", f"--user-data-dir={tmp_path / 'profile'}"),
            *("--window-size=375,800", "--dump-dom", page.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert "CONSOLE" not in done.stderr, done.stderr
    assert "What was found" in done.stdout
    assert "pwned" not in re.sub(r"&lt;script&gt;.*?&lt;/script&gt;", "", done.stdout)


def test_exposure_stands_beside_the_scores_and_says_what_is_missing(page: Path) -> None:
    text = Elements(page.read_text()).text
    section = text[text.index("Exposure without an attack") : text.index("Latency and energy")]
    assert "3 of 12" in section
    assert "25 %" in section
    assert "surrogate" in section
    lines = [line for line in section.splitlines() if line.startswith("least MSE")]
    assert lines == ["least MSE behind it (Cramer-Rao)\N{EN DASH}\N{EN DASH}"]  # one per arm


def test_scores_show_the_class_mean_restarts_and_relative_leakage(page: Path) -> None:
    text = Elements(page.read_text()).text
    for words in ("class mean", "of restarts (%)", "Relative data leakage (RDLV", "re-identified"):
        assert words in text
