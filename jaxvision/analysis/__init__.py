"""Looking into networks: class activation maps, receptive fields, feature spaces, learning-rate curves."""
