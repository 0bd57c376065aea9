from .choice import MlflowTracking as MlflowTracking
from .choice import NoTracking as NoTracking
