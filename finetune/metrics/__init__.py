"""Metrics that papers quote, by the field's own scorers: pure functions from predictions and references.

Each is a share between 0 and 1 (correlations: -1 and 1); BLEU and chrF are sacreBLEU's, from 0 to 100.
What is undefined, such as the correlation with a constant, is 0.
"""
