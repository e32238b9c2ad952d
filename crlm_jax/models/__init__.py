"""Segmenters and critics."""
