from .heads import MarginHead as MarginHead
from .heads import SoftmaxHead as SoftmaxHead
from .mix import LossMix as LossMix
from .sharded import ShardedMarginHead as ShardedMarginHead
from .sharded import ShardedSoftmaxHead as ShardedSoftmaxHead
from .term import Term as Term
from .triplet import TripletLoss as TripletLoss
