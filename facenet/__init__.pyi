from .commands.from_python import evaluate as evaluate
from .commands.from_python import train as train
from .errors import UserError as UserError
from .network import Network as Network
from .network import load as load
from .tasks.result import Result as Result

__version__: str
