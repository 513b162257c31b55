"""Documents made fit to learn from: denoised, normalised, or left out with a reason."""
