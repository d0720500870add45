"""The methods by name. A new one is one file here and one line below."""

from hsi_fuse.problem import Stage
from hsi_fuse.stages.cnmf import Cnmf
from hsi_fuse.stages.coupled import Coupled
from hsi_fuse.stages.cucanet import Cucanet
from hsi_fuse.stages.fresco import Fresco
from hsi_fuse.stages.gsa import Gsa
from hsi_fuse.stages.hysure import Hysure
from hsi_fuse.stages.map import Map
from hsi_fuse.stages.ssc import Ssc
from hsi_fuse.stages.sylvester import Sylvester
from hsi_fuse.stages.uafl import Uafl

STAGES: dict[str, type[Stage]] = {
    "map": Map,
    "coupled": Coupled,
    "cucanet": Cucanet,
    "fresco": Fresco,
    "gsa": Gsa,
    "cnmf": Cnmf,
    "hysure": Hysure,
    "sylvester": Sylvester,
    "uafl": Uafl,
    "ssc": Ssc,
}
