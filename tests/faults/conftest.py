"""Faults are done to the project of the end-to-end tests."""

from tests.end_to_end.conftest import project as project
