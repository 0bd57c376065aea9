from .errors import UserError as UserError
from .network import Network as Network
from .network import load as load

__version__: str
