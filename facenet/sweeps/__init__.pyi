from .elsewhere import PlanFirst as PlanFirst
from .settings import Sweep as Sweep
