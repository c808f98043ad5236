"""One training loop for supernets and subnets, clip calibration, BatchNorm recalibration and scoring."""
