"""The methods by name. A new one is one file here and one line below."""

from hsi_fuse.problem import Stage
from hsi_fuse.stages.coupled import Coupled
from hsi_fuse.stages.map import Map

STAGES: dict[str, type[Stage]] = {"map": Map, "coupled": Coupled}
