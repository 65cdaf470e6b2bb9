"""Learning rules by name. Listing them imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedcore.registry import Registry

if TYPE_CHECKING:
    from fedcore.nn.learning_rules.base import LearningRule

__all__ = ["LEARNING_RULES"]

LEARNING_RULES: Registry[type[LearningRule]] = Registry(
    "learning rule", {"backprop": "fedcore.nn.learning_rules.backprop:Backprop"}
)
"""Each is a frozen dataclass; its fields are the rule's options."""
