"""OwnSettings: settings that one entry of a registry has."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class OwnSettings(BaseModel):
    """None by default. A field is an option of the commands; its description is the help."""

    model_config = ConfigDict(frozen=True, extra="forbid")
