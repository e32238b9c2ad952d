"""From scans and masks on disk to batches of slices; knows no model and no configuration."""
