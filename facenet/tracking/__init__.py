"""Runs in MLflow, and its only importer. What rank 0 says goes to a journal on disk first; the launcher sends it on."""
