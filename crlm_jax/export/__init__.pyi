from .bundle import export_run as export_run
