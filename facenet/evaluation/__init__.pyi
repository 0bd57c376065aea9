from .benchmarks.choice import Bin as Bin
from .benchmarks.choice import HeldOut as HeldOut
from .benchmarks.choice import Lfw as Lfw
from .benchmarks.choice import NoBenchmark as NoBenchmark
from .protocol import Protocol as Protocol
