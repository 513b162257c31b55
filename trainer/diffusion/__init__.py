"""Diffusion in formulas: levels of noise, what networks predict, and the ways from noise to images."""
