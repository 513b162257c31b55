"""Drawn images against real ones, by the features that a network sees in them."""
