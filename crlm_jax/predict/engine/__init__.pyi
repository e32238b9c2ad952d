from . import xla as xla
from .choice import Engine as Engine
from .choice import EngineError as EngineError
from .choice import choose as choose
from .openvino_model import load_translated as load_translated
from .translate import to_openvino as to_openvino
