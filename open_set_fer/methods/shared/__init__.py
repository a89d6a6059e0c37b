"""What methods share: networks, training, augmentation, scorers."""
