"""From files to batches: sources, partitions, weak augmentation and the training stream."""
