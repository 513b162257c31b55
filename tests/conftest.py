"""Fixtures that every level uses: small generated corpora and the runs over them."""
