"""Colours that all plots share."""

GREY, BLUE, ORANGE = "#9aa0a6", "#1f6fb2", "#e07b39"
