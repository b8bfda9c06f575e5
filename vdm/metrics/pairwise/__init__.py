"""Metrics that compare videos or their features one by one, without a fitted distribution."""
