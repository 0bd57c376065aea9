from .choice import Distributed as Distributed
