from .accelerator import Accelerator as Accelerator
from .table import DeviceChoice as DeviceChoice
from .table import Precision as Precision
