"""Resolution and colours that all drawings share."""

from __future__ import annotations

DPI = 200


INK, FAINT, ACCENT = "#1a1a1a", "#6b6b6b", "#f2542d"
