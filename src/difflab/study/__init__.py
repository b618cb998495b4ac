"""Studies: settings to vary, cells to run, results to keep."""
