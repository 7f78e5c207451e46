"""What the groups of both services' settings have in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Group(BaseModel):
    """A group of settings: frozen. Unknown names and numbers that are not finite are refused: an infinite limit would
    be none, and an infinite interval would switch off what is done each time."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
