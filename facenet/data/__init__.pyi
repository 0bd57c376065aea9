from .layout import Layout as Layout
from .sampling.reference_sampler import ReferenceSampler as ReferenceSampler
from .sampling.sampler import (
    IdentitySampler as IdentitySampler,
)
from .sampling.sampler import (
    Sampler as Sampler,
)
from .sampling.sampler import (
    ShuffleSampler as ShuffleSampler,
)
from .sampling.sampler import (
    TripletSampler as TripletSampler,
)
from .source import (
    AnnotationData as AnnotationData,
)
from .source import (
    Data as Data,
)
from .source import (
    FolderData as FolderData,
)
from .source import (
    RecordData as RecordData,
)
from .source import (
    ShardData as ShardData,
)
from .source import (
    SyntheticData as SyntheticData,
)
from .transforms import Augment as Augment
from .transforms import Preprocess as Preprocess
