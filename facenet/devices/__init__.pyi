from .accelerator import Accelerator as Accelerator
from .row import Device as Device
from .row import Host as Host
from .table import DeviceChoice as DeviceChoice
from .table import Precision as Precision
