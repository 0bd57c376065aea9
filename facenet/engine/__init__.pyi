from .muon import Muon as Muon
from .schedule import (
    Constant as Constant,
)
from .schedule import (
    ReferenceCosine as ReferenceCosine,
)
from .schedule import (
    ReferenceStep as ReferenceStep,
)
from .schedule import (
    Schedule as Schedule,
)
from .schedule import (
    TorchSchedule as TorchSchedule,
)
from .schedule import (
    WarmupCosine as WarmupCosine,
)
from .trainer import Settings as Settings
from .watch.choice import Watch as Watch
