from .bundle import export_run as export_run
from .to_onnx import ExportError as ExportError
