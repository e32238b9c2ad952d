from .bundle import export_run as export_run
from .share import share_run as share_run
from .to_onnx import ExportError as ExportError
