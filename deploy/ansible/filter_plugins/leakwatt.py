"""Jinja filters of the playbooks: the decisions are made in Python, where tests reach them."""

from testbed.deploy.inventory import plan


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, object]:
        """By name."""
        return {"leakwatt_plan": plan}
