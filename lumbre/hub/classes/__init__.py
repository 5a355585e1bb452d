"""Lumbre's own model type as transformers' classes: what the Auto classes give for a `lumbre` folder.

Imported by `lumbre.hub.register` alone, once transformers is.
"""
