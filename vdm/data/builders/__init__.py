"""Builders of TensorFlow Datasets for data sets that it has not."""
