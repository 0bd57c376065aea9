from .accelerator import Accelerator as Accelerator
from .accelerator import DeviceChoice as DeviceChoice
from .accelerator import Precision as Precision
