"""Networks, training, augmentation and scorers shared by methods."""
