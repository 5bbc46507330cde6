"""Preferences: of two answers to one prompt, which is the better one. The public names of this subject."""

from __future__ import annotations

from steerkit.data.preference_items import Preference
from steerkit.data.preference_loading import load_preferences
from steerkit.data.preference_sets import Preferences

__all__ = ["Preference", "Preferences", "load_preferences"]
