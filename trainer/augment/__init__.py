"""Random changes to training images: drawn from each sample's position, applied to a batch on its device."""
