"""The settings of the demo, which name everything that its models were trained on."""

from __future__ import annotations

from functools import cache

from actors.attributes import AttributeSchema
from jobs.settings import CONF, Settings, load_settings


@cache
def demo_settings() -> Settings:
    """Return the settings of `conf/demo.yaml`."""
    return load_settings([str(CONF / "demo.yaml")]).settings


def demo_schema() -> AttributeSchema:
    """Return the attributes that the demo's SmolVLM was trained to answer."""
    return AttributeSchema(demo_settings().attributes)
