"""Files and labels -> images, samples and splits: the only place that reads and writes pixels."""
