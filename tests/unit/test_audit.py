"""A person's own module under attack: names, kinds and modes, and every refusal with its reason."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import safetensors.torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from attacker.audit import Attack, Knowledge, Model, Sent  # noqa: E402
from fedcore.errors import AttackError, ConfigError, KnowledgeError  # noqa: E402
from fedcore.nn.arrays import to_tensor, to_tensors  # noqa: E402
from fedcore.nn.functional import gradient, run  # noqa: E402
from fedcore.nn.models import build, initial_weights  # noqa: E402
from fedcore.plan import ModelSpec  # noqa: E402

pytestmark = pytest.mark.torch

SHAPE = (1, 8, 8)
MATCHING = Attack("inverting-gradients", restarts=1, iterations=80)


class Person(nn.Module):
    """Nested, with parameters that nobody here has named."""

    def __init__(self, *, head: nn.Module | None = None, norm: nn.Module | None = None) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), norm or nn.Identity(), nn.ReLU(inplace=True)
        )
        self.head = head or nn.Linear(512, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images).flatten(1))


@pytest.fixture
def images() -> Tensor:
    datasets = pytest.importorskip("sklearn.datasets")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    digits = datasets.load_digits(n_class=10)
    return torch.tensor(digits.images[:4, None] / 16, dtype=torch.float32)  # labels 0 to 3


def sent_for(net: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """What FedSGD sends; the labels are 0, 1, 2..."""
    loss = F.cross_entropy(net(images), torch.arange(len(images)))
    slopes = torch.autograd.grad(loss, list(net.parameters()))
    return {name: s for (name, _), s in zip(net.named_parameters(), slopes, strict=True)}


def psnr_db(answer: object, images: Tensor) -> float:
    error = np.mean((answer.candidates[answer.chosen] - images.numpy()) ** 2)
    return float(-10 * np.log10(max(error, 1e-20)))


def test_a_persons_module_gives_its_input_and_label_away(images: Tensor, tmp_path: Path) -> None:
    net, image = Person(), images[3:]
    update = sent_for(net, image)  # of label 0
    file = tmp_path / "update.safetensors"
    safetensors.torch.save_file(update, file)
    model = Model.of_module(net, input_shape=SHAPE)
    answer = MATCHING.run(file, model)
    assert psnr_db(answer, image) > 25
    assert answer.labels[answer.chosen].tolist() == [0]
    for source in (update, file.read_bytes(), list(update.values())):
        given = model.update_in(Sent(source))
        for name, theirs in model.names.items():
            np.testing.assert_array_equal(given[name], update[theirs].numpy())


def test_new_weights_a_delta_and_a_gradient_say_the_same(images: Tensor) -> None:
    net = Person()
    slopes = sent_for(net, images[:1])
    new = {name: w.detach() - 0.5 * slopes[name] for name, w in net.named_parameters()}
    delta = {name: new[name] - w.detach() for name, w in net.named_parameters()}
    model = Model.of_module(net, input_shape=SHAPE)
    for sent in (
        Sent(new, kind="weights", learning_rate=0.5),
        Sent(delta, kind="delta", learning_rate=0.5),
    ):
        update = model.update_in(sent)
        for name, theirs in model.names.items():
            np.testing.assert_allclose(update[name], delta[theirs].numpy(), atol=1e-6)
    assert psnr_db(MATCHING.run(sent, model), images[:1]) > 25


def test_several_local_steps_are_followed(images: Tensor) -> None:
    net = Person()
    model = Model.of_module(net, input_shape=SHAPE)
    sgd = torch.optim.SGD(net.parameters(), lr=0.2)
    for _ in range(2):
        sgd.zero_grad()
        F.cross_entropy(net(images[:1]), torch.tensor([0])).backward()
        sgd.step()
    sent = Sent(net.state_dict(), kind="weights", local_steps=2, learning_rate=0.2)
    assert psnr_db(MATCHING.run(sent, model), images[:1]) > 25
    with pytest.raises(ConfigError, match="2 local steps cannot do without"):
        Sent(net.state_dict(), kind="weights", local_steps=2)


def test_the_adapter_computes_what_the_module_computes(images: Tensor) -> None:
    net = Person(norm=nn.BatchNorm2d(8)).eval()
    net.body[1].running_mean.normal_()
    model = Model.of_module(net, input_shape=SHAPE, mean=[0.3], std=[0.25])
    network, weights = model.network_of(model.spec), to_tensors(model.weights)
    came_about = run(network, weights, images[None])
    normalised = (images - 0.3) / 0.25
    torch.testing.assert_close(came_about.logits, net(normalised))
    features = came_about.received["readout"][0]
    torch.testing.assert_close(F.linear(features, net.head.weight, net.head.bias), net(normalised))
    slopes = gradient(network, weights, images[None], torch.arange(4))
    for name, expected in sent_for(net, normalised).items():
        ours = next(o for o, theirs in model.names.items() if theirs == name)
        torch.testing.assert_close(slopes[ours], expected)


def test_batch_norm_in_training_mode_takes_the_candidates_own_statistics(images: Tensor) -> None:
    net = Person(norm=nn.BatchNorm2d(8))
    update, before = sent_for(net, images), copy.deepcopy(net.state_dict())
    model = Model.of_module(net, input_shape=SHAPE)
    answer = MATCHING.run(Sent(update, n_examples=4), model, Knowledge(labels=[0, 1, 2, 3]))
    assert psnr_db(answer, images) > 18
    for name, value in net.state_dict().items():
        torch.testing.assert_close(value, before[name])  # the person's module is left alone
    with pytest.raises(AttackError, match="mixes the examples"):
        Attack("peeling").run(Sent(update, n_examples=4), model)


def test_a_state_dict_may_hold_buffers(images: Tensor) -> None:
    net = Person(norm=nn.BatchNorm2d(8)).eval()
    model = Model.of_module(
        Person(norm=nn.BatchNorm2d(8)).eval(), input_shape=SHAPE, weights=net.state_dict()
    )
    slopes = sent_for(net, images[:1])
    new = {name: value - slopes.get(name, 0) for name, value in net.state_dict().items()}
    for tensors in (new, list(new.values())):
        update = model.update_in(Sent(tensors, kind="weights"))
        np.testing.assert_allclose(update["readout.bias"], -slopes["head.bias"].numpy(), atol=1e-6)


@pytest.mark.parametrize("ends_in", ["logits", "log-softmax"])
def test_peeling_and_the_first_layer_read_a_module(ends_in: str, images: Tensor) -> None:
    tail = [nn.LogSoftmax(1)] if ends_in == "log-softmax" else []
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 100), nn.Tanh(), nn.Linear(100, 10), *tail)
    model = Model.of_module(net, input_shape=SHAPE)
    update = sent_for(net, images[:1])
    peeled = Attack("peeling", restarts=2, iterations=150).run(update, model)
    assert psnr_db(peeled, images[:1]) > 40
    read = Attack("first-layer").run(update, model)
    assert psnr_db(read, images[:1]) > 80


def refusals() -> dict[str, tuple[Callable[[dict[str, Tensor]], object], str]]:
    def without(update: dict[str, Tensor]) -> object:
        return {name: s for name, s in update.items() if name != "head.bias"}

    def misspelt(update: dict[str, Tensor]) -> object:
        return {**update, "haed.bias": update["head.bias"]}

    def cut(update: dict[str, Tensor]) -> object:
        return {**update, "head.bias": update["head.bias"][:3]}

    return {
        "missing": (without, "no 'head.bias'.*did you mean 'head.weight'"),
        "unknown": (misspelt, "no parameter 'haed.bias'; did you mean 'head.bias'"),
        "shape": (cut, r"'head.bias' has shape \[3\], the module's has \[10\]"),
        "not finite": (lambda u: {n: s / 0 for n, s in u.items()}, "NaN or infinite"),
        "zero": (lambda u: {n: 0 * s for n, s in u.items()}, "every gradient.* is zero"),
        "no tensors": (lambda _: {}, "no tensor"),
        "no file": (lambda _: "nowhere.safetensors", "cannot be read"),
        "no safetensors": (lambda _: b"PK", "not safetensors"),
        "a pickle": (lambda _: __file__, "expected .safetensors or .npz .a .pt file is a pickle"),
        "text": (lambda u: {**u, "head.bias": ["a"]}, "expected numbers"),
    }


@pytest.mark.parametrize("what", refusals())
def test_an_update_that_does_not_fit_is_refused_in_one_line(what: str, images: Tensor) -> None:
    spoil, why = refusals()[what]
    net = Person()
    model = Model.of_module(net, input_shape=SHAPE)
    with pytest.raises((ConfigError, AttackError), match=why) as refused:
        MATCHING.run(spoil(sent_for(net, images[:1])), model)
    assert "\n" not in str(refused.value)


class Branching(Person):
    def forward(self, images: Tensor) -> Tensor:
        logits = super().forward(images)
        return 2 * logits if logits.sum() > 0 else logits


class Pair(Person):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images), images


class Again(nn.Module):
    """Uses its first layer twice, so that its gradient mixes two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(64, 64), nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.last(self.first(self.first(images.flatten(1)).tanh()).tanh())


def test_a_module_that_cannot_be_attacked_is_refused_in_one_line(images: Tensor) -> None:
    def model(net: nn.Module, **options: object) -> Model:
        return Model.of_module(net, **{"input_shape": SHAPE, **options})

    for make, why in (
        (lambda: model(Person(), input_shape=(3, 8, 8)), "does not run on inputs of shape"),
        (lambda: model(Person(norm=nn.Dropout(0.5))), "Dropout in training mode"),
        (lambda: model(Pair()), "returns tuple, expected logits"),
        (lambda: model(Person(), mean=[0.1, 0.2]), "mean: got 2 numbers"),
        (lambda: model(Person(), std=[0.0]), "std: expected numbers > 0"),
        (lambda: model(Person(), weights={"a": np.ones(1)}), "the weights: no 'body.0.weight'"),
    ):
        with pytest.raises(ConfigError, match=why):
            make()
    tied = Person(head=nn.Sequential(nn.Linear(512, 512), nn.Linear(512, 512), nn.Linear(512, 10)))
    tied.head[1].weight = tied.head[0].weight
    with pytest.raises(ConfigError, match=r"'head.0.weight' and 'head.1.weight' are one parameter"):
        model(tied)
    net = Branching()
    with pytest.raises(AttackError, match=r"torch.func.*does not take this module"):
        MATCHING.run(sent_for(net, images[:1]), model(net))


def test_what_an_attack_cannot_do_is_refused_with_its_reason(images: Tensor) -> None:
    net = Person(head=nn.Linear(512, 10, bias=False))
    model, update = Model.of_module(net, input_shape=SHAPE), sent_for(net, images[:1])
    with pytest.raises(AttackError, match="readout has no bias"):
        Attack("peeling").run(update, model)
    with pytest.raises(AttackError, match=r"'body/0' comes first and is not fully connected .Conv"):
        Attack("first-layer").run(update, model)
    with pytest.raises(AttackError, match="list of layers and activations"):
        Attack("r-gap").run(update, model)
    with pytest.raises(AttackError, match="does not spike"):
        Attack("relaxed-matching").run(update, model)
    with pytest.raises(KnowledgeError, match="labels"):
        Attack("dlg", labels="granted").run(update, model)
    with pytest.raises(ConfigError, match=r"labels: got \[10\], expected classes 0 to 9"):
        MATCHING.run(update, model, Knowledge(labels=[10]))
    with pytest.raises(ConfigError, match="labels: got 2, expected 1 "):
        MATCHING.run(update, model, Knowledge(labels=[0, 1]))
    two_steps = Sent(update, kind="delta", n_examples=2, local_steps=2, learning_rate=0.1)
    with pytest.raises(ConfigError, match="labels: got 2, expected 4"):
        MATCHING.run(two_steps, model, Knowledge(labels=[0, 1]))
    with pytest.raises(ConfigError, match="did you mean 'peeling'"):
        Attack("peelin")
    no_readout = Person(head=nn.Sequential(nn.Linear(512, 10), nn.Tanh()))
    with pytest.raises(AttackError, match="no linear layer that gives the logits"):
        Attack("peeling").run(
            sent_for(no_readout, images[:1]), Model.of_module(no_readout, input_shape=SHAPE)
        )
    again = Again()
    with pytest.raises(AttackError, match="'input' comes first and is not fully connected"):
        Attack("first-layer").run(
            sent_for(again, images[:1]), Model.of_module(again, input_shape=SHAPE)
        )
    scaled = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with pytest.raises(AttackError, match="'input' comes first and is not fully connected"):
        Attack("first-layer").run(
            sent_for(scaled, images[:1]), Model.of_module(scaled, input_shape=SHAPE, mean=[0.5])
        )


def spiking_modules() -> dict[str, Callable[[], nn.Module]]:
    def snntorch() -> nn.Module:
        neurons = pytest.importorskip("snntorch").Leaky(beta=0.9, init_hidden=True)
        return Spikes(neurons, reset="reset_mem")

    def spikingjelly() -> nn.Module:
        neurons = pytest.importorskip("spikingjelly.activation_based.neuron").LIFNode()
        return Spikes(neurons, reset="reset")

    return {"snntorch": snntorch, "spikingjelly": spikingjelly}


class Spikes(nn.Module):
    def __init__(self, neurons: nn.Module, *, reset: str) -> None:
        super().__init__()
        self.reset = reset
        self.first, self.neurons, self.last = nn.Linear(64, 200), neurons, nn.Linear(200, 10)

    def forward(self, images: Tensor) -> Tensor:
        getattr(self.neurons, self.reset)()
        currents = 4 * self.first(images.flatten(1))
        return self.last(sum(self.neurons(currents) for _ in range(6)) / 6)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("library", spiking_modules())
def test_spiking_modules_of_other_libraries_are_peeled_and_else_refused(
    library: str, images: Tensor
) -> None:
    net = spiking_modules()[library]()
    update = sent_for(net, images[:1])  # it has run: its membranes have a history
    model = Model.of_module(net, input_shape=SHAPE)
    peeled = Attack("peeling", restarts=2, iterations=150).run(update, model)
    assert psnr_db(peeled, images[:1]) > 13
    assert psnr_db(Attack("first-layer").run(update, model), images[:1]) > 60
    with pytest.raises(AttackError, match="belong to another library"):
        Attack("relaxed-matching").run(update, model)
    with pytest.raises(AttackError, match="'peeling' needs its first derivatives only"):
        MATCHING.run(update, model)


def test_a_model_of_leakwatts_own_is_attacked_as_it_is_described(images: Tensor) -> None:
    spec = ModelSpec(name="mlp", input_shape=SHAPE, activation="sigmoid")
    weights = initial_weights(spec, 0)
    slopes = gradient(build(spec), to_tensors(weights), images[None, :1], to_tensor(np.array([0])))
    model = Model.of_spec(spec, weights=weights)
    assert psnr_db(MATCHING.run(slopes, model), images[:1]) > 25
