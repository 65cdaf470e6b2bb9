"""Attacks on a person's own model: an update, a module and what is known, in five lines.

    from attacker.audit import Attack, Knowledge, Model, Sent

    model = Model.of_module(net, input_shape=(1, 28, 28))
    sent = Sent("update.safetensors", kind="gradient", n_examples=1)
    answer = Attack("inverting-gradients", restarts=4).run(sent, model, Knowledge())

The loss that is attacked is the mean cross-entropy over the batch, of what the module returns; a
module that ends in a log-softmax has the same gradients. Nothing in here knows the truth: whoever
has it scores the answer with `testbed.audit`.
"""

from __future__ import annotations

from attacker.audit.attack import Attack
from attacker.audit.model import Model
from attacker.audit.sent import Sent
from fedcore.types import Knowledge

__all__ = ["Attack", "Knowledge", "Model", "Sent"]
