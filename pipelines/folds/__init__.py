"""Cross-validation: many folds to one evaluation."""
