"""Pictures of data, of predictions and of runs, drawn without a display or global state."""
