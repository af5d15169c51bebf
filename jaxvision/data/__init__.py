"""Sources, host transforms and batching; the only folder that imports TensorFlow, and that lazily."""
