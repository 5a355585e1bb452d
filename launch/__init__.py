"""Launchers: one job, started here or handed to a cluster; never imports torch."""
