"""The demo: a web page on which trained models sample, predict, extend and upsample videos."""
