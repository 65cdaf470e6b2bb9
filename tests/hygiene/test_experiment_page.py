"""The page of experiment files names every key and every option of a plugin, and no other."""

import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, get_args, get_origin, get_type_hints

import pytest

from aggregator.strategies.base import STRATEGIES
from attacker.attacks import ATTACKS
from fedcore.codecs.base import CODECS
from fedcore.config import (
    Arm,
    AttackConfig,
    DataConfig,
    Experiment,
    HardwareConfig,
    Schedule,
    load_experiment,
)
from fedcore.data.datasets import DATASETS
from fedcore.data.encodings import ENCODINGS
from fedcore.data.partition import PARTITIONS
from fedcore.defences.base import DEFENCES
from fedcore.devices import Device, LinkShape
from fedcore.nn.models import MODELS
from fedcore.nn.neurons import NEURONS
from fedcore.plan import Choice, EncodingSpec, ModelSpec, NeuronSpec, Training
from fedcore.registry import Registry
from fedcore.strict import to_table
from fedcore.types import ThreatModel
from hardware.registry import METERS

PAGE = Path(__file__).parents[2] / "docs" / "experiments.md"
TABLES = {
    "Top of the file": Experiment,
    "data": DataConfig,
    "hardware": HardwareConfig,
    "devices": Device,
    "devices.link": LinkShape,
    "arms": Arm,
    "model": ModelSpec,
    "model.neuron": NeuronSpec,
    "encoding": EncodingSpec,
    "training": Training,
    "schedule": Schedule,
    "threat": ThreatModel,
    "attack": AttackConfig,
}
PLUGINS: dict[str, Registry] = {
    "Datasets": DATASETS,
    "Partitions": PARTITIONS,
    "Models": MODELS,
    "Neurons": NEURONS,
    "Encodings": ENCODINGS,
    "Defences": DEFENCES,
    "Codecs": CODECS,
    "Strategies": STRATEGIES,
    "Meters": METERS,
    "Attacks": ATTACKS,
}
NEEDS_TORCH = ("Models", "Neurons", "Attacks")


def section(heading: str) -> str:
    """The text under a heading, up to the next one."""
    found = re.search(
        rf"^## {re.escape(heading)}\n(.*?)(?=^#|\Z)",
        PAGE.read_text(),
        flags=re.MULTILINE | re.DOTALL,
    )
    assert found, f"the page has no section {heading!r}"
    return found[1]


def rows(heading: str) -> list[list[str]]:
    """The cells of a section's table, without its head."""
    lines = [line for line in section(heading).splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def default_of(field: dataclasses.Field) -> str | None:
    """How the page writes a default; None where it is a table with a section of its own."""
    if field.default is not dataclasses.MISSING:
        value = field.default
    elif field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    else:
        return "required"
    if isinstance(value, Choice) and not value.options:
        return f"`{{ name = {json.dumps(value.name)} }}`"
    if dataclasses.is_dataclass(value[0] if isinstance(value, tuple) and value else value):
        return None
    return "none" if value is None else f"`{json.dumps(to_table(value))}`"


def words_of(cls: type, name: str) -> Iterator[str]:
    """The words that a key with a choice of words accepts."""
    hint = get_type_hints(cls)[name]
    if get_origin(hint) is Literal:
        yield from get_args(hint)


@pytest.mark.parametrize("heading", TABLES)
def test_a_table_lists_every_key_with_its_default(heading: str) -> None:
    found = {key: (default, meaning) for key, default, meaning in rows(heading)}
    fields = {f"`{field.name}`": field for field in dataclasses.fields(TABLES[heading])}
    assert found.keys() == fields.keys()
    for key, field in fields.items():
        default, meaning = found[key]
        assert meaning
        expected = default_of(field)
        assert expected is None or default == expected, key
        assert all(re.search(rf"\b{w}\b", meaning) for w in words_of(TABLES[heading], field.name))


@pytest.mark.parametrize("heading", PLUGINS)
def test_a_plugin_lists_every_option_with_its_default(heading: str) -> None:
    if heading in NEEDS_TORCH:
        pytest.importorskip("torch")
    registry, expected = PLUGINS[heading], set()
    for name in registry.names():
        plugin = registry.get(name)
        plugin = getattr(plugin, "options_type", plugin)
        for field in dataclasses.fields(plugin):
            expected.add((f"`{name}`", f"`{field.name}`", default_of(field)))
            assert all(w in section(heading) for w in words_of(plugin, field.name))
        if not dataclasses.fields(plugin):
            expected.add((f"`{name}`", "", ""))
    assert {tuple(cells[:3]) for cells in rows(heading)} == expected
    assert all(cells[3] for cells in rows(heading))


def test_links_of_the_page_lead_somewhere() -> None:
    text = PAGE.read_text()
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", h).strip().lower().replace(" ", "-") for h in headings}
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if target.startswith("#"):
            assert target[1:] in anchors
        else:
            assert (PAGE.parent / target).exists()


def test_the_example_on_the_page_is_an_experiment(tmp_path: Path) -> None:
    found = re.search(r"```toml\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    assert found
    (tmp_path / "mine.toml").write_text(found[1])
    shipped = PAGE.parents[1] / "experiments" / "quickstart.toml"
    (tmp_path / "quickstart.toml").write_text(shipped.read_text())
    experiment = load_experiment(tmp_path / "mine.toml")
    assert [arm.name for arm in experiment.arms] == ["plain", "clip"]
    assert {arm.training.batch_size for arm in experiment.arms} == {4}
