"""Detect with a trained model."""
